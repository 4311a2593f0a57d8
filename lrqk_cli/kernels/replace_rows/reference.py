"""Fetch the planned rows from the host store into their hot slots."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.buffers import FetchPlan, Residents


def replace_rows(residents: Residents, plan: FetchPlan, store: Tensor) -> None:
    """Copy the row of each planned token into its slot, and update the slot table and the mask.

    Args:
        residents: see ``Residents``; changed in place.
        plan: see ``FetchPlan``; its tokens are not resident, and its slots are filled.
        store: all rows, ``[KV, context, 2, d]``.
    """
    sets = residents.rows.shape[0]
    share = sets // store.shape[0]
    for row_set, count in enumerate(plan.counts.tolist()):
        token, slot = plan.token[row_set, :count].long(), plan.slot[row_set, :count].long()
        fetched = store[row_set // share, token.to(store.device)]
        residents.rows[row_set, residents.recent + slot] = fetched.to(residents.rows.device)
        residents.resident[row_set, residents.slot_token[row_set, slot]] = False
        residents.resident[row_set, token] = True
        residents.slot_token[row_set, slot] = token
