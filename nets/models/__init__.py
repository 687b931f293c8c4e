"""One paper family a file."""
