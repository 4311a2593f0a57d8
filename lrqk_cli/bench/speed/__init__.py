"""How fast prefill and decode are, and what memory they take, mode by mode."""
