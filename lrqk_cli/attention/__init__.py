"""The LRQK attention and its cache."""
