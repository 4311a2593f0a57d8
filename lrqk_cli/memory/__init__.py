"""Memory in bytes: what a run needs, what is free, and the allocation of tensors."""
