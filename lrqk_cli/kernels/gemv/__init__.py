"""Linear layers of one token."""
