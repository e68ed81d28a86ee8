"""Training one stream or several together."""
