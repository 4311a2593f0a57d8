"""A linear layer, for one token."""
