"""Decode attention over the resident rows, with the tail correction."""

from lrqk_cli.kernels.attend_residents import reference
from lrqk_cli.kernels.twins import with_triton

attend_residents = with_triton(reference.attend_residents)
