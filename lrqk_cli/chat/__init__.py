"""The conversation, and how it looks on a terminal."""
