"""What a stream is, one file each."""
