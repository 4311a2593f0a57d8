"""Normalisation by the root mean square."""

from lrqk_cli.kernels.rms_norm import reference
from lrqk_cli.kernels.twins import with_triton

rms_norm = with_triton(reference.rms_norm)
