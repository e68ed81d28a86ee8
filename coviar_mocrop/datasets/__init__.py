"""Data sets: video lists, official splits, your own folders, the demo, and transcoding to the canonical format."""
