"""Attend to the residents, and add the predicted contribution of all other rows."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.attend.reference import attend
from lrqk_cli.kernels.buffers import Fetch, Residents, Tail
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.drafts import add_drafts
from lrqk_cli.kernels.fixed_point.reference import fixed_point
from lrqk_cli.kernels.launch_scratch import AttendScratch
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
    drafts: Tensor | None = None,
) -> None:
    """Attend exactly to ring and hot slots; add the drafts of a verify step, the tail and the sinks.

    First fetches planned rows into their slots, as ``replace_rows`` does.

    The tail is the non-resident candidates. The index predicts their weights, and their mean value is linear
    in their mean code. If all candidates are resident, there is no tail.

    Args:
        query: ``[sets, N, d]``.
        residents: see ``Residents``; fetches change them.
        length: int64 ``[1]``, tokens before this step.
        scratch: intermediate results of the Triton kernels.
        out: receives the output ``[sets, N, d]``, in its own dtype.
        out_lse: receives the log-sum-exp over the residents alone, float32 ``[sets, N]``.
        scaling, softcap: as the model's attention uses them.
        fetch: the rows to fetch before attending; None for no rows.
        tail: inputs of the tail; None leaves the tail out.
        sinks: one extra logit per query, which joins the softmax and has no value, ``[sets, N]``.
        fixed: receives the rounded output of all heads as one vector in fixed point too, see
            ``kernels.fixed_point``; d must then be a multiple of 32.
        drafts: rows ``[KV, M - 1, 2, d]``; query n then is of token n % M of the step, and sees the first
            n % M of these rows too.
    """
    if fetch is not None:
        replace_rows(residents, fetch.plan, fetch.store)
    count = int(length) + 1
    candidates = max(0, count - residents.recent)
    used = min(count, residents.recent) + min(candidates, residents.hot)
    rows = residents.rows[:, :used]
    output, lse = attend(query.unsqueeze(2), rows[:, :, 0], rows[:, :, 1], scaling=scaling, softcap=softcap)
    out_lse.copy_(lse.squeeze(2))
    if drafts is not None:
        tokens = -1, drafts.shape[1] + 1
        output, lse = add_drafts(
            output.squeeze(2).unflatten(1, tokens),
            lse.squeeze(2).unflatten(1, tokens),
            query.unflatten(1, tokens),
            drafts,
            scaling=scaling,
            softcap=softcap,
        )
        output, lse = (part.flatten(1, 2).unsqueeze(2) for part in (output, lse))
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
    mean_code = logits.softmax(-1) @ unpack_codes(tail.codes[:, :candidates])
    return (tail.intercept.unsqueeze(1) + mean_code @ tail.slope).unsqueeze(2), mass
