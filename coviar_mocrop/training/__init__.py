"""Train one stream, or several together."""
