"""Store keys of the low-rank space in an index."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.codes import encoded


def encode_codes(values: Tensor, scale: Tensor, out: Tensor) -> None:
    """Store k̂ as codes.

    Args:
        values: k̂, float32 ``[sets, S, r]``.
        scale: k̂ for a code of one, ``[sets, 1, r]``; ones for a floating index.
        out: the tokens' part of an index, ``[sets, S, r]``, or packed ``[sets, S, r / 2]``; the tokens of a
            set are adjacent. Integers are rounded half to even, and outliers saturate.
    """
    out.copy_(encoded(values, scale, out.dtype))
