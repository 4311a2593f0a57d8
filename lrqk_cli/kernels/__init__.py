"""The operations that attention is made of, one folder each, and what chooses between implementations."""
