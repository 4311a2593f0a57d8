"""What a step fetches, against the definition written as loops over sets."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.kernels.dispatch import plan_fetches


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_wanted_rows_become_resident_and_the_worst_leave(data: st.DataObject) -> None:
    heads, total = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 24))
    size = data.draw(st.integers(1, total))
    wanted = data.draw(st.integers(1, size))
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    # Few distinct values: ties are the hard case.
    scores = torch.randint(0, data.draw(st.sampled_from([3, 1000])), (heads, total), generator=random).float()
    slot_token = torch.full((heads, size), -1)
    resident = torch.zeros(heads, total, dtype=torch.bool)
    filled = data.draw(st.integers(0, size))
    for head in range(heads):
        slot_token[head, :filled] = torch.randperm(total, generator=random)[:filled]
        resident[head, slot_token[head, :filled]] = True

    head_of, token_of, slot_of = plan_fetches(scores, resident, slot_token, wanted)

    for head in range(heads):
        mine = head_of == head
        fetched, slots = token_of[mine].tolist(), slot_of[mine].tolist()
        assert len(set(fetched)) == len(fetched)
        assert len(set(slots)) == len(slots)
        assert not resident[head, fetched].any()
        before = {t for t in slot_token[head].tolist() if t >= 0}
        left = {t for t in slot_token[head, slots].tolist() if t >= 0}
        after = (before - left) | set(fetched)
        # The residents hold a best-m set, whichever way ties are broken.
        best = scores[head].topk(wanted).values
        held = sorted((scores[head, t].item() for t in after), reverse=True)[:wanted]
        assert held == sorted(best.tolist(), reverse=True)
        # Empty slots are used before anything leaves, and what leaves is no better than what stays.
        assert not left or len(fetched) >= size - filled
        stays = before - left
        threshold = best.min().item()
        unprotected = [scores[head, t].item() for t in stays if scores[head, t].item() < threshold]
        if left and unprotected:
            assert max(scores[head, t].item() for t in left) <= min(unprotected)


def test_nothing_is_fetched_when_the_best_are_resident() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.2]])
    resident = torch.tensor([[False, True, True, False]])
    fetches = plan_fetches(scores, resident, torch.tensor([[2, 1]]), 2)
    assert fetches.token.numel() == 0
