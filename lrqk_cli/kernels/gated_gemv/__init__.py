"""Both first linear layers of a gated MLP and what joins them, for one token."""
