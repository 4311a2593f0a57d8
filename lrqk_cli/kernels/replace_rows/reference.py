"""Fetch the planned rows from the host store into their hot slots."""

from __future__ import annotations

import torch

from lrqk_cli.kernels.buffers import FetchPlan, Residents, RowScales, StoredRows
from lrqk_cli.kernels.dequantise_rows.reference import dequantise_rows


def replace_rows(residents: Residents, plan: FetchPlan, store: StoredRows) -> None:
    """Copy the row of each planned token into its slot, and update the slot table and the mask.

    Args:
        residents: see ``Residents``; changed in place.
        plan: see ``FetchPlan``; its tokens are not resident, and its slots are filled.
        store: all rows; those with scales are read back on the way.
    """
    sets = residents.rows.shape[0]
    share = sets // store.rows.shape[0]
    for row_set, count in enumerate(plan.counts.tolist()):
        token, slot = plan.token[row_set, :count].long(), plan.slot[row_set, :count].long()
        head = row_set // share
        fetched = store.rows[head, token.to(store.rows.device)].to(residents.rows.device)
        if store.scales is not None:
            centre, spread, kv_dtype = store.scales
            scales = RowScales(centre[head : head + 1], spread[head : head + 1], kv_dtype)
            plain = torch.empty_like(residents.rows[:1, : len(fetched)])
            dequantise_rows(StoredRows(fetched.unsqueeze(0), scales), plain)
            fetched = plain[0]
        residents.rows[row_set, residents.recent + slot] = fetched
        residents.resident[row_set, residents.slot_token[row_set, slot]] = False
        residents.resident[row_set, token] = True
        residents.slot_token[row_set, slot] = token
