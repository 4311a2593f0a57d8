"""A step's token enters the stores, and its queries the low-rank space."""
