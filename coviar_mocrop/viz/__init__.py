"""Figures, tables, annotated videos and TensorBoard."""
