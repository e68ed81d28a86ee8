"""Clips: the frames that all streams need, read in one pass over the file, cropped and resized, uint8."""
