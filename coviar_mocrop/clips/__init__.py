"""A clip: the frames that all its streams want, from one pass over the file, cropped and resized, uint8."""
