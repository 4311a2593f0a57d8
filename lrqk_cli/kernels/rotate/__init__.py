"""Rotary position embedding of one token."""

from lrqk_cli.kernels.rotate import reference
from lrqk_cli.kernels.twins import with_triton

rotate = with_triton(reference.rotate)
