"""Measurements against what people use, on the same files in the same run."""
