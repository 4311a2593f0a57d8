"""Fetch the planned rows from the host store into their hot slots."""

from __future__ import annotations

from lrqk_cli.kernels.buffers import FetchPlan, Residents, StoredRows
from lrqk_cli.kernels.dequantise_rows.reference import codes_and_factors, values_of


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
            centre, spread = store.scales.of_tokens(head, token)
            codes, factor = codes_and_factors(fetched.unsqueeze(0), store.scales.code_dtype)
            fetched = values_of(codes[0], factor[0], centre, spread, residents.rows.dtype)
        residents.rows[row_set, residents.recent + slot] = fetched
        residents.resident[row_set, residents.slot_token[row_set, slot]] = False
        residents.resident[row_set, token] = True
        residents.slot_token[row_set, slot] = token
