"""Rows that are resident on the device: the recent window of a layer, and its sticky hot set."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.attention.host_store import RowStore
from lrqk_cli.attention.rewind_points import HotSetRewindPoint
from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.kernels.buffers import FetchPlan, Residents
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty


class Ring:
    """The newest rows of one layer: the row of token t stands at ``t % size``.

    The used part is always the prefix ``rows[:, :min(length, size)]``; attention does not care for its order.
    Where several row sets share a KV head, each has its own copy of that head's rows.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @property
    def size(self) -> int:
        """Rows of a row set there is room for."""
        return self.rows.shape[1]

    def append(self, length: int, key: Tensor, value: Tensor) -> None:
        """Take up K and V ``[KV, S, d]`` of the tokens from ``length`` on; the oldest leave."""
        count = min(self.size, key.shape[1])
        first = length + key.shape[1] - count
        slots = torch.arange(first, first + count, device=self.rows.device) % self.size
        self.rows[:, slots] = _rows(key[:, -count:], value[:, -count:], self.rows.shape[0])

    def ordered(self, length: int, count: int) -> tuple[Tensor, Tensor]:
        """Return K and V ``[KV, count, d]`` of the newest ``count`` of ``length`` tokens, oldest first."""
        slots = torch.arange(length - count, length, device=self.rows.device) % self.size
        rows = self.rows[:, slots]
        return rows[:, :, 0], rows[:, :, 1]

    def tokens(self, length: int) -> Tensor:
        """Return which of ``length`` tokens stands in each used slot, ``[min(length, size)]``."""
        slots = torch.arange(min(length, self.size), device=self.rows.device)
        return length - 1 - (length - 1 - slots) % self.size


def _rows(key: Tensor, value: Tensor, sets: int) -> Tensor:
    """Return rows ``[sets, S, 2, d]`` of K and V ``[KV, S, d]``, repeated for the sets of a KV head."""
    rows = torch.stack((key, value), dim=2)
    share = sets // rows.shape[0]
    return rows if share == 1 else rows.repeat_interleave(share, 0)


class HotSet:
    """Resident rows of one layer: ``recent`` newest ones and C chosen ones, in one buffer.

    Every row set (a KV head's, or a query head's) holds equally many rows, and they fill the buffer from its
    start, so that attention over all residents is attention over a prefix.

    Attributes:
        rows: ``[sets, recent + C, 2, d]``, the recent window first.
        slot_token: the token in each hot slot, ``[sets, C]``; -1 where empty.
        resident: bool ``[sets, context]``: the token is in a hot slot.
        residents: the same three for the kernels.
        count: filled hot slots of each row set.
    """

    def __init__(
        self, spec: ModelSpec, settings: LrqkConfig, context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        name = accounting.dtype_name(dtype)
        self.rows = empty(accounting.hot_rows(spec, settings, context, name), device)
        self.slot_token = empty(accounting.slot_tokens(spec, settings, context), device)
        self.resident = empty(accounting.resident_mask(spec, settings, context), device)
        self.recent = Ring(self.rows[:, : settings.recent])
        self.residents = Residents(self.rows, self.slot_token, self.resident)
        self._hot = self.rows[:, settings.recent :]
        self.clear()

    @property
    def size(self) -> int:
        """C, the hot slots of a row set."""
        return self.slot_token.shape[1]

    def clear(self) -> None:
        """Empty the hot slots; the recent window stays."""
        self.slot_token.fill_(-1)
        self.resident.zero_()
        self.count = 0

    def candidates(self, length: int) -> int:
        """Return how many of ``length`` tokens have left the recent window and may be in hot slots."""
        return max(0, length - self.recent.size)

    def append(self, length: int, key: Tensor, value: Tensor) -> None:
        """Take up one token's K and V ``[KV, 1, d]``; the one leaving the window takes a free hot slot."""
        leaving = length - self.recent.size
        if leaving == self.count < self.size:
            rows = self.recent.rows[:, length % self.recent.size].unsqueeze(1)
            self.fill(rows[:, :, 0], rows[:, :, 1])
        self.recent.append(length, key, value)

    def fill(self, key: Tensor, value: Tensor) -> None:
        """Put K and V ``[KV, S, d]`` of the tokens from ``count`` on into the slots from ``count`` on.

        While all candidates fit, slot i holds token i.
        """
        stop = self.count + key.shape[1]
        rows = _rows(key, value, self.rows.shape[0])
        self._hot[:, self.count : stop] = rows
        self.slot_token[:, self.count : stop] = torch.arange(self.count, stop, device=self.rows.device)
        self.resident[:, self.count : stop] = True
        self.count = stop

    def replace(self, plan: FetchPlan, store: Tensor) -> None:
        """Put planned rows of ``store``, ``[KV, context, 2, d]``, into their slots; all slots are filled."""
        kernels.replace_rows(self.residents, plan, store)

    def rewind_point(self) -> HotSetRewindPoint:
        """Note which tokens are hot."""
        return HotSetRewindPoint(self.slot_token.to("cpu", torch.int32, copy=True), self.count)

    def rewind(self, point: HotSetRewindPoint, length: int, store: RowStore) -> None:
        """Hold again what was held at ``point``, of ``length`` tokens; what has left comes from the store.

        A row that stayed in its slot is not copied.
        """
        before, self.count = self.slot_token.clone(), point.count
        self.slot_token.copy_(point.slot_token)
        self._refetch((self.slot_token != before) & (self.slot_token >= 0), store)
        self.resident.zero_()
        used = self.slot_token[:, : self.count]
        self.resident.scatter_(1, used, True)
        first = max(0, length - self.recent.size)
        for key, value in store.stream(first, length):
            self.recent.append(first, key, value)
            first += key.shape[1]

    def _refetch(self, lost: Tensor, store: RowStore) -> None:
        """Fetch the rows of the slots in ``lost``, bool ``[sets, C]``, for the tokens that they name now."""
        sets, hot = lost.shape
        slot = lost.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        plan = FetchPlan.empty(sets, hot, self.rows.device)
        plan.slot.copy_(slot)
        plan.token.copy_(self.slot_token.gather(1, slot))
        plan.counts.copy_(lost.sum(1))
        plan.leaving.copy_(lost)
        store.await_writes()
        # This leaves a wrong mask where a token changed its slot; it is made anew.
        kernels.replace_rows(self.residents, plan, store.rows)

    def resident_rows(self, length: int) -> tuple[Tensor, Tensor]:
        """Return K and V ``[sets, n, d]`` of all residents: recent window and hot slots."""
        used = min(length, self.recent.size) + self.count
        return self.rows[:, :used, 0], self.rows[:, :used, 1]

    def resident_tokens(self, length: int) -> Tensor:
        """Return the tokens ``[sets, n]`` of all residents, in the order of ``resident_rows``."""
        recent = self.recent.tokens(length).expand(self.rows.shape[0], -1)
        return torch.cat((recent, self.slot_token[:, : self.count]), dim=1)
