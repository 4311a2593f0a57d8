"""Linear layers of packed weights of those experts that a token goes to."""
