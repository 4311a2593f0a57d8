"""Multiply matrices by one token, for linear layers."""

from lrqk_cli.kernels.gemv import reference
from lrqk_cli.kernels.twins import with_triton

gemv = with_triton(reference.gemv)
