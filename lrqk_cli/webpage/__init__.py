"""Conversations as pages to look at in a browser."""
