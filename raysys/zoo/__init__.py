"""How the small shipped models are built from drawn scenes; the models themselves are in `members/`."""
