"""Gate and up projection of a gated MLP, and their gated product, for one token."""

from lrqk_cli.kernels.gated_gemv import reference
from lrqk_cli.kernels.gated_gemv.reference import Activation as Activation
from lrqk_cli.kernels.twins import with_triton

gated_gemv = with_triton(reference.gated_gemv)
