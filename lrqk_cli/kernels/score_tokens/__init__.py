"""Predicted logits of all tokens, and their masses."""
