"""Store a step's tokens on the host, in the ring and in the index, and project their queries."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import Drafts, IndexMaps, Projected, Residents, StoredRows
from lrqk_cli.kernels.codes import encoded
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
    drafts: Drafts | None = None,
) -> tuple[Tensor, Tensor]:
    """Store token ``t = length`` and its drafts; ``length`` does not change, because all layers read it.

    The rows of all S tokens go to the host store, and their codes to the index. First the pending rows of
    ``drafts``, which are of the newest tokens before t, go to the ring, in order, then that of token t, to
    slot ``t % W``. The token that leaves the ring, ``t - W``, takes hot slot ``t - W`` if it exists.

    Args:
        query: ``[sets, N, d]``.
        key, value: ``[KV, S, d]``.
        maps: see ``IndexMaps``.
        codes: the index; receives the codes of the keys from t on; integers are rounded half to even and
            saturate.
        store: all rows; with scales, the codes and the ring are of the rows as they will be read back.
        residents: see ``Residents``.
        length: int64 ``[1]``.
        out: receives the codes and offsets of the queries.
        drafts: of the verify step before; not changed. None if there are none.

    Returns:
        K and V ``[KV, S, d]`` as they will be read back.
    """
    position, tokens = int(length), key.shape[1]
    sets, heads = query.shape[0], key.shape[0]
    share = sets // heads
    if store.scales is None:
        rows = torch.stack((key, value), 2)
        store.rows[:, position : position + tokens] = rows.to(store.rows.device)
    else:
        key, value = quantise_rows(key, value, store, position=length)
        rows = torch.stack((key, value), 2)
    if drafts is not None:
        pending = int(drafts.pending)
        for number in range(pending):
            _append_row(residents, position - pending + number, drafts.rows[:, number])
    _append_row(residents, position, rows[:, 0])
    mean = maps.mean.repeat_interleave(share, 0)
    centred = key.float().repeat_interleave(share, 0) - mean.unsqueeze(1)
    code = encoded(centred @ maps.key, maps.scale.unsqueeze(1), codes.dtype)
    codes[:, position : position + tokens] = code
    out.codes.copy_(query.float() @ maps.query)
    out.offset.copy_((query.float() @ mean.unsqueeze(2)).squeeze(2))
    return key, value


def _append_row(residents: Residents, token: int, row: Tensor) -> None:
    """Store the row ``[KV, 2, d]`` of a token in the ring; the row that leaves takes its own hot slot."""
    recent, leaving = residents.recent, token - residents.recent
    if 0 <= leaving < residents.hot:
        residents.rows[:, recent + leaving] = residents.rows[:, token % recent]
        residents.slot_token[:, leaving] = leaving
        residents.resident[:, leaving] = True
    residents.rows[:, token % recent] = row.repeat_interleave(residents.rows.shape[0] // row.shape[0], 0)
