"""What a decode step fetches, and into which slots."""
