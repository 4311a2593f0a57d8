"""The drafts of a verify step: their rows, and the attention to them."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.attention.position import Position
from lrqk_cli.attention.projection import per_set
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.kernels.buffers import Drafts
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty


def empty_drafts(
    spec: ModelSpec, config: LrqkConfig, dtype: torch.dtype, position: Position
) -> Drafts | None:
    """Return the memory for the drafts of a layer, on the device of ``position``; None if it takes none."""
    if not accounting.draft_tokens(spec, config):
        return None
    rows = accounting.draft_rows(spec, config, accounting.dtype_name(dtype))
    return Drafts(empty(rows, position.tensor.device), position.pending_tensor)


def add_drafts(
    output: Tensor, lse: Tensor, query: Tensor, rows: Tensor, params: AttentionParams
) -> tuple[Tensor, Tensor]:
    """Return the attention of a verify step with its drafts added, causally: draft i sees drafts 1 to i.

    Args:
        output, lse: attention to all other rows, ``[sets, G, M, d]`` and ``[sets, G, M]``.
        query: ``[sets, G, M, d]``; the first of each M is the newest token, which sees no draft.
        rows: of the drafts, ``[KV, M - 1, 2, d]``.
    """
    key, value = (per_set(part, query.shape[0]) for part in rows.unbind(2))
    of_drafts = query[:, :, 1:].contiguous()
    added = kernels.attend(of_drafts, key, value, scaling=params.scaling, softcap=params.softcap, causal=True)
    merged, merged_lse = kernels.merge(output[:, :, 1:], lse[:, :, 1:].contiguous(), *added)
    merged = torch.cat((output[:, :, :1].to(merged.dtype), merged), 2)
    return merged, torch.cat((lse[:, :, :1], merged_lse), 2)
