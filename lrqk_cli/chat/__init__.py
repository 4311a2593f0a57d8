"""What a conversation knows, and how it is kept; it draws nothing."""
