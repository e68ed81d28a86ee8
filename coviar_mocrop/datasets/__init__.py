"""Data sets: lists, official splits, own folders, the demo, canonical files."""
