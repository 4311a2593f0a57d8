"""Rows that are resident on the device: a layer's recent window and its sticky hot set."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrqk_cli.attention.host_store import RowStore, side_by_side
from lrqk_cli.config import LrqkConfig
from lrqk_cli.kernels.buffers import FetchPlan, Residents
from lrqk_cli.memory import accounting
from lrqk_cli.memory.activations import STREAM_ROWS
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec


class Ring:
    """The newest rows of one layer; the row of token t is at ``t % size``.

    The used part is always the prefix ``rows[:, :min(length, size)]``; attention does not depend on its
    order. If several row sets share a KV head, each has its own copy of that head's rows.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @property
    def size(self) -> int:
        """Rows that the ring holds per row set."""
        return self.rows.shape[1]

    def append(self, length: int, key: Tensor, value: Tensor) -> None:
        """Store K and V ``[KV, S, d]`` of the tokens from ``length`` on in place of the oldest rows."""
        count = min(self.size, key.shape[1])
        first = length + key.shape[1] - count
        slots = torch.arange(first, first + count, device=self.rows.device) % self.size
        rows = side_by_side(key[:, -count:], value[:, -count:], self.rows.shape[2])
        share = self.rows.shape[0] // rows.shape[0]
        self.rows[:, slots] = rows if share == 1 else rows.repeat_interleave(share, 0)

    def ordered(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        """Return K and V ``[KV, count, d]`` of the newest ``count`` of ``length`` tokens, oldest first.

        Tokens beyond ``length`` may be in the ring too, as long as they have not overwritten these.
        """
        slots = torch.arange(length - count, length, device=self.rows.device) % self.size
        rows = self.rows[:, slots]
        return rows[:, :, 0], rows[:, :, -1]

    def tokens(self, length: int) -> Tensor:
        """Return the token in each used slot after ``length`` tokens, ``[min(length, size)]``."""
        slots = torch.arange(min(length, self.size), device=self.rows.device)
        return length - 1 - (length - 1 - slots) % self.size


class HotSet:
    """Resident rows of one layer in one buffer: the ``recent`` newest rows and C hot rows.

    Every row set (one per KV head or query head) holds equally many rows, and they fill the buffer from its
    start, so that attention over all residents is attention over a prefix.

    Attributes:
        rows: ``[sets, recent + C, 2, d]``, the recent window first.
        slot_token: the token in each hot slot, ``[sets, C]``; -1 where empty.
        resident: bool ``[sets, context]``, whether a token is in a hot slot.
        residents: the same three tensors, for the kernels.
    """

    def __init__(
        self, spec: ModelSpec, config: LrqkConfig, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._spec, self._context, self._dtype, self._device = spec, context, dtype, device
        self._sets_per_head = accounting.row_sets(spec, config) // spec.num_kv_heads
        self.resident = empty(accounting.resident_mask(spec, config, context), device)
        self.allocate(config)

    def allocate(self, config: LrqkConfig) -> None:
        """Take memory for the recent window and the hot rows of ``config``; both are empty then."""
        name = accounting.dtype_name(self._dtype)
        rows = empty(accounting.hot_rows(self._spec, config, self._context, name), self._device)
        slot_token = empty(accounting.slot_tokens(self._spec, config, self._context), self._device)
        self._divide(rows, slot_token, config.recent)
        self.clear()

    def release(self) -> None:
        """Free the memory of all residents; before the next token, ``allocate`` must take some."""
        self._divide(self.rows[:, :0].clone(), self.slot_token[:, :0].clone(), 0)

    @property
    def is_released(self) -> bool:
        """Whether there is no memory for residents, not even for the recent window."""
        return self.rows.nbytes == 0

    def _divide(self, rows: Tensor, slot_token: Tensor, recent: int) -> None:
        self.rows, self.slot_token = rows, slot_token
        self.recent = Ring(rows[:, :recent])
        self.residents = Residents(rows, slot_token, self.resident)
        self._hot = rows[:, recent:]

    @property
    def size(self) -> int:
        """C, the hot slots of a row set."""
        return self.slot_token.shape[1]

    def clear(self) -> None:
        """Empty the hot slots; the recent window stays."""
        self.slot_token.fill_(-1)
        self.resident.zero_()

    def candidates(self, length: int) -> int:
        """Return how many of ``length`` tokens are older than the recent window and may be in hot slots."""
        return max(0, length - self.recent.size)

    def filled(self, length: int) -> int:
        """Return how many hot slots of a row set are filled after a decode step with ``length`` tokens."""
        return min(self.candidates(length), self.size)

    def append(self, length: int, key: Tensor, value: Tensor) -> None:
        """Store K and V ``[KV, S, d]`` of the tokens from ``length`` on; all candidates so far are resident.

        The rows that leave the window take the free hot slots. They come from the window, and in a segment
        that is longer than the window also from the segment.
        """
        first, stop = self.candidates(length), self.filled(length + key.shape[1])
        between = min(stop, length)
        if first < between:
            self.fill(first, *self.recent.ordered(between, between - first))
        first = max(first, length)
        if first < stop:
            new = slice(first - length, stop - length)
            self.fill(first, key[:, new], value[:, new])
        self.recent.append(length, key, value)

    def append_segment(self, length: int, filled: int, key: Tensor, value: Tensor) -> int:
        """Store a segment's K and V ``[KV, S, d]``; fill free hot slots while their rows are at hand.

        Slots are filled in the order of the text. Where rows are missing, they must be read from the store:
        after a restore, and after a segment that was interrupted behind this layer, whose rows have displaced
        those that this one has to keep.

        Args:
            length: tokens before the segment; ``filled``: slots of each row set that were filled by then.

        Returns:
            The slots that are filled now.
        """
        if filled == self.candidates(length):
            self.append(length, key, value)
            return self.filled(length + key.shape[1])
        self.recent.append(length, key, value)
        kept = min(filled, self.filled(length))
        self.slot_token[:, kept:filled] = -1
        self.resident[:, kept:filled] = False
        return kept

    def fill(self, first: int, key: Tensor, value: Tensor) -> None:
        """Copy K and V of the tokens from ``first`` on into the slots from ``first`` on.

        Slot i holds token i as long as all candidates fit.

        Args:
            key, value: ``[KV, S, d]``, or ``[sets, S, d]``.
        """
        stop = first + key.shape[1]
        # Without ``side_by_side``, which would copy a whole segment once more.
        rows = self._hot[:, first:stop].unflatten(0, (key.shape[0], -1))
        rows[..., 0, :] = key.unsqueeze(1)
        if rows.shape[-2] > 1:
            rows[..., 1, :] = value.unsqueeze(1)
        self.slot_token[:, first:stop] = torch.arange(first, stop, device=self.rows.device)
        self.resident[:, first:stop] = True

    def keys(self, first: int, length: int) -> Iterator[Tensor]:
        """Yield the keys of the tokens from ``first`` on, all resident, in chunks ``[KV, S, d]``.

        Args:
            length: tokens so far; slot i holds token i for all candidates.
        """
        candidates, share = self.candidates(length), self._sets_per_head
        for start in range(first, candidates, STREAM_ROWS):
            yield self._hot[::share, start : min(start + STREAM_ROWS, candidates), 0]
        first = max(first, candidates)
        for start in range(first, length, STREAM_ROWS):
            stop = min(start + STREAM_ROWS, length)
            yield self.recent.ordered(stop, stop - start)[0][::share]

    def rewind(self, slot_token: Tensor, filled: int, length: int, store: RowStore) -> None:
        """Restore the residents of the time when there were ``length`` tokens.

        Rows that have left since are read from the store; rows that stayed in their slots are not copied.

        Args:
            slot_token: the tokens in the slots at that time; the first ``filled`` of each set were in use.
        """
        wanted = slot_token.to(self.slot_token)
        lost = (wanted != self.slot_token) & (wanted >= 0)
        # Empty until the rows are there, so that the next rewind after an interrupt fetches them.
        self.slot_token.masked_fill_(lost, -1)
        self._refetch(lost, wanted, store)
        self.slot_token.copy_(wanted)
        self.resident.zero_()
        self.resident.scatter_(1, self.slot_token[:, :filled], True)
        first = max(0, length - self.recent.size)
        for key, value in store.stream(first, length):
            self.recent.append(first, key, value)
            first += key.shape[1]

    def _refetch(self, lost: Tensor, wanted: Tensor, store: RowStore) -> None:
        """Fetch the rows of the slots in ``lost``, bool ``[sets, C]``; ``wanted`` has their tokens."""
        sets, hot = lost.shape
        slot = lost.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        plan = FetchPlan.empty(sets, hot, self.rows.device)
        plan.slot.copy_(slot)
        plan.token.copy_(wanted.gather(1, slot))
        plan.counts.copy_(lost.sum(1))
        plan.leaving.copy_(lost)
        store.await_writes()
        # The mask is wrong now where a token changed its slot; the caller rebuilds it.
        store.fetch(self.residents._replace(slot_token=wanted), plan)

    def resident_rows(self, length: int) -> tuple[Tensor, Tensor]:
        """Return K and V ``[sets, n, d]`` of all residents: the recent window, then the hot slots."""
        used = min(length, self.recent.size) + self.filled(length)
        return self.rows[:, :used, 0], self.rows[:, :used, -1]

    def resident_tokens(self, length: int) -> Tensor:
        """Return the tokens ``[sets, n]`` of all residents, in the order of ``resident_rows``."""
        recent = self.recent.tokens(length).expand(self.rows.shape[0], -1)
        return torch.cat((recent, self.slot_token[:, : self.filled(length)]), dim=1)
