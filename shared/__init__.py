"""What both sides of the socket must agree on; knows nobody above it."""
