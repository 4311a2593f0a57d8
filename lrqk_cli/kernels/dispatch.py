"""The operations of a prefill, of plain steps and of packing weights: chooses by device and arguments.

Those of steps whose lengths are on the device are in ``decode``.
"""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.attend import library
from lrqk_cli.kernels.attend import reference as attend_reference
from lrqk_cli.kernels.codes import largest_code, pack_codes, unpack_codes
from lrqk_cli.kernels.decode import with_triton
from lrqk_cli.kernels.fit_scales import reference as fit_scales_reference
from lrqk_cli.kernels.merge import reference as merge_reference
from lrqk_cli.kernels.plan_fetches.reference import plan_fetches
from lrqk_cli.kernels.proxy_scores.reference import group_scores, proxy_logits

__all__ = [
    "attend",
    "fit_scales",
    "fit_scales_and_minima",
    "group_scores",
    "largest_code",
    "merge",
    "pack_codes",
    "plan_fetches",
    "proxy_logits",
    "unpack_codes",
]

merge = with_triton(merge_reference.merge)
fit_scales = with_triton(fit_scales_reference.fit_scales)
fit_scales_and_minima = with_triton(fit_scales_reference.fit_scales_and_minima)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend by torch's flash kernel where it has one, else by the reference; see ``attend.reference``."""
    if library.supports(query, softcap=softcap, causal=causal, window=window, total=key.shape[1]):
        return library.attend(query, key, value, scaling=scaling, causal=causal)
    return attend_reference.attend(
        query, key, value, scaling=scaling, softcap=softcap, causal=causal, window=window
    )
