"""Store a step's token on the host, in the ring and in the index, and project its queries."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import IndexMaps, Projected, Residents, StoredRows
from lrqk_cli.kernels.codes import largest_code, pack_codes
from lrqk_cli.kernels.quantise_rows.reference import quantise_rows


def append_token(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    maps: IndexMaps,
    codes: Tensor,
    store: StoredRows,
    residents: Residents,
    length: Tensor,
    out: Projected,
) -> None:
    """Store token ``t = length``; ``length`` does not change, because all layers read it.

    The row goes to the host store and to ring slot ``t % W``. The token that leaves the ring, ``t - W``,
    takes hot slot ``t - W`` if it exists.

    Args:
        query: ``[sets, N, d]``.
        key, value: ``[KV, d]``.
        maps: see ``IndexMaps``.
        codes: the index; receives the code of the key at t; integers are rounded half to even and saturate.
        store: all rows; with scales, the key's code and the ring are of the row as it will be read back.
        residents: see ``Residents``.
        length: int64 ``[1]``.
        out: receives the codes and offsets of the queries.
    """
    position = int(length)
    sets, heads = query.shape[0], key.shape[0]
    share = sets // heads
    if store.scales is None:
        row = torch.stack((key, value), 1)
        store.rows[:, position] = row.to(store.rows.device)
    else:
        key, value = quantise_rows(key.unsqueeze(1), value.unsqueeze(1), store, position=length)
        key, value = key.squeeze(1), value.squeeze(1)
        row = torch.stack((key, value), 1)
    _keep_leaving(residents, position - residents.recent)
    residents.rows[:, position % residents.recent] = row.repeat_interleave(share, 0)
    mean = maps.mean.repeat_interleave(share, 0)
    centred = key.float().repeat_interleave(share, 0) - mean
    code = (centred.unsqueeze(1) @ maps.key).squeeze(1) / maps.scale
    top = largest_code(codes.dtype)
    if top is not None:
        code = code.round().clamp(-top, top)
    codes[:, position] = (pack_codes(code) if codes.dtype == torch.uint8 else code).to(codes.dtype)
    out.codes.copy_(query.float() @ maps.query)
    out.offset.copy_((query.float() @ mean.unsqueeze(2)).squeeze(2))


def _keep_leaving(residents: Residents, token: int) -> None:
    if 0 <= token < residents.hot:
        recent = residents.recent
        residents.rows[:, recent + token] = residents.rows[:, token % recent]
        residents.slot_token[:, token] = token
        residents.resident[:, token] = True
