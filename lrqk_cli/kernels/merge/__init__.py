"""Merge two attentions of the same queries over disjoint rows."""

from lrqk_cli.kernels.merge import reference
from lrqk_cli.kernels.twins import with_triton

merge = with_triton(reference.merge)
