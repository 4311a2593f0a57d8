"""Which rows a step fetches, and which slots they take."""
