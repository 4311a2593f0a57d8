"""Attend to the residents, and let all other rows take part with what their codes predict."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.attend.reference import attend
from lrqk_cli.kernels.buffers import AttendScratch, Fetch, Residents, Tail
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.fixed_point.reference import fixed_point
from lrqk_cli.kernels.merge.reference import merge
from lrqk_cli.kernels.replace_rows.reference import replace_rows


def attend_residents(
    query: Tensor,
    residents: Residents,
    length: Tensor,
    scratch: AttendScratch,  # noqa: ARG001
    out: Tensor,
    out_lse: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    fetch: Fetch | None = None,
    tail: Tail | None = None,
    sinks: Tensor | None = None,
    fixed: Tensor | None = None,
) -> None:
    """Attend exactly to ring and hot slots; add the tail and the sinks.

    Planned rows are fetched into their slots first, as ``replace_rows`` does it.

    The tail is the candidates that are not resident. Their weights are what the index predicts, and their
    mean value is linear in their mean code. There is none while all candidates are resident.

    Args:
        query: ``[sets, N, d]``.
        residents: see ``Residents``; changed where rows are fetched.
        length: int64 ``[1]``, tokens before this step.
        scratch: what the Triton kernels need.
        out: gets the output ``[sets, N, d]``, in its own element type.
        out_lse: gets the log-sum-exp over the residents alone, float32 ``[sets, N]``.
        scaling, softcap: as the model's attention uses them.
        fetch: rows that take part, and are not yet in their slots.
        tail: None leaves the tail out.
        sinks: one more logit per query that takes part in the softmax and has no value, ``[sets, N]``.
        fixed: gets the output of all heads as one vector in fixed point too, as rounded; see
            ``kernels.fixed_point``. Then d is a multiple of 32.
    """
    if fetch is not None:
        replace_rows(residents, fetch.plan, fetch.store)
    count = int(length) + 1
    candidates = max(0, count - residents.recent)
    used = min(count, residents.recent) + min(candidates, residents.hot)
    rows = residents.rows[:, :used]
    output, lse = attend(query.unsqueeze(2), rows[:, :, 0], rows[:, :, 1], scaling=scaling, softcap=softcap)
    out_lse.copy_(lse.squeeze(2))
    if tail is not None and candidates > residents.hot:
        output, lse = merge(output, lse, *_tail(tail, residents, candidates))
    output = output.squeeze(2)
    if sinks is not None:
        output = output * torch.sigmoid(lse.squeeze(2) - sinks.float()).unsqueeze(2)
    out.copy_(output)
    if fixed is not None:
        fixed_point(fixed, out.flatten())


def _tail(tail: Tail, residents: Residents, candidates: int) -> tuple[Tensor, Tensor]:
    """Return the mean value ``[sets, N, 1, d]`` and the log-mass ``[sets, N, 1]`` of the tail."""
    resident = residents.resident[:, None, :candidates]
    logits = tail.scores.logits[:, :, :candidates].masked_fill(resident, float("-inf"))
    mass = logits.logsumexp(-1, keepdim=True)
    mean_code = torch.exp(logits - mass) @ unpack_codes(tail.codes[:, :candidates])
    return (tail.intercept.unsqueeze(1) + mean_code @ tail.slope).unsqueeze(2), mass
