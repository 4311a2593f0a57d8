"""Multiply packed matrices by one token, for linear layers."""

from lrqk_cli.kernels.packed_gemv import reference
from lrqk_cli.kernels.twins import with_triton

packed_gemv = with_triton(reference.packed_gemv)
