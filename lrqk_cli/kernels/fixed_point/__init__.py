"""A vector in fixed point, for integer products with packed weights."""
