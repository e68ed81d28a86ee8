"""Pictures, tables and TensorBoard."""
