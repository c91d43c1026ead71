"""Training of the small shipped models on drawn scenes. The models are in `members/`."""
