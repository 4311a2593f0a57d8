"""Both first linear layers of a gated MLP of packed weights and what joins them, for one token."""
