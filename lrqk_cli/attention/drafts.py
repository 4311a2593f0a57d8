"""The memory for the drafts of a verify step."""

from __future__ import annotations

import torch

from lrqk_cli.attention.position import Position
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import Drafts
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec


def empty_drafts(
    spec: ModelSpec, config: LrqkConfig, dtype: torch.dtype, position: Position
) -> Drafts | None:
    """Return the memory for the drafts of a layer, on the device of ``position``; None if it takes none."""
    if not accounting.draft_tokens(spec, config):
        return None
    rows = accounting.draft_rows(spec, config, accounting.dtype_name(dtype))
    return Drafts(empty(rows, position.tensor.device), position.pending_tensor)
