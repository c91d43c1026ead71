"""The captioned set as files that other tools open."""
