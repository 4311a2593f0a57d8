"""Linear layers of packed weights, for one token."""
