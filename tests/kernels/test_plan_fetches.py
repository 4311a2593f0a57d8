"""What a step fetches, against the definition written as loops over sets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.kernels import plan_fetches


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_wanted_rows_become_resident_and_the_worst_leave(data: st.DataObject) -> None:
    heads, total = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 24))
    size = data.draw(st.integers(1, total))
    wanted = data.draw(st.integers(1, size))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    # Few distinct values: ties are the hard case.
    scores = torch.randint(0, data.draw(st.sampled_from([3, 1000])), (heads, total), generator=random).float()
    slot_token = torch.stack([torch.randperm(total, generator=random)[:size] for _ in range(heads)])
    resident = torch.zeros(heads, total, dtype=torch.bool).scatter_(1, slot_token, True)

    plan = plan_fetches(scores, resident, slot_token, wanted)

    assert plan.totals.tolist() == [heads * wanted, int(plan.counts.sum())]
    for head in range(heads):
        count = int(plan.counts[head])
        fetched, slots = plan.token[head, :count].tolist(), plan.slot[head, :count].tolist()
        assert len(set(fetched)) == len(fetched)
        assert len(set(slots)) == len(slots)
        assert not resident[head, fetched].any()
        before = set(slot_token[head].tolist())
        left = set(slot_token[head, slots].tolist())
        after = (before - left) | set(fetched)
        # The residents hold a best-m set, whichever way ties are broken.
        best = scores[head].topk(wanted).values
        held = sorted((scores[head, t].item() for t in after), reverse=True)[:wanted]
        assert held == sorted(best.tolist(), reverse=True)
        # What leaves is no better than what stays.
        stays = before - left
        threshold = best.min().item()
        unprotected = [scores[head, t].item() for t in stays if scores[head, t].item() < threshold]
        if left and unprotected:
            assert max(scores[head, t].item() for t in left) <= min(unprotected)


def test_nothing_is_fetched_when_the_best_are_resident() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.2]])
    resident = torch.tensor([[False, True, True, False]])
    plan = plan_fetches(scores, resident, torch.tensor([[2, 1]]), 2)
    assert plan.counts.tolist() == [0]
