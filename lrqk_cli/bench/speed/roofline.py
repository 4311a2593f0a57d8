"""The speed at which memory could deliver what a decode step has to read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.memory import accounting, probe


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second, as measured by copies.

    Attributes:
        memory: of the device, reads and writes together.
        link: from pinned host memory to the device; None where they are one.
    """

    memory: float
    link: float | None

    @classmethod
    def of(cls, device: torch.device) -> Bandwidth:
        """Measure those of a device."""
        return cls(probe.memory_bandwidth(device), probe.link_bandwidth(device))


@dataclass(frozen=True, slots=True)
class StepBytes:
    """What a decode step has to read.

    Attributes:
        device: from the device's memory: weights, and index and hot rows or the KV rows.
        link: from host memory in any case: the KV rows under ``offload``. What ``lrqk`` fetches does not
            count: a hot set that foresees everything would fetch nothing.
    """

    device: int
    link: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.device + self.link

    def tokens_per_second(self, bandwidth: Bandwidth) -> float:
        """Return the limit; memory and link can work at the same time."""
        if bandwidth.link is None:
            return bandwidth.memory / self.total
        return 1.0 / max(self.device / bandwidth.memory, self.link / bandwidth.link)


def step_bytes(model: PreTrainedModel, spec: ModelSpec, settings: LrqkConfig, depth: int) -> StepBytes | None:
    """Return the bytes of a step after ``depth`` tokens; None for a mixture of experts."""
    weights = weight_bytes(model)
    if weights is None:
        return None
    kv = accounting.kv_bytes(spec, settings, depth, str(model.dtype).removeprefix("torch."))
    from_host = kv.host_kv if settings.attention == "offload" else 0
    return StepBytes(weights + kv.index + kv.hot + kv.device_kv + kv.sliding, from_host)


def weight_bytes(model: PreTrainedModel) -> int | None:
    """Return the bytes of the parameters that every token reads; None for a mixture of experts.

    Of an input embedding a token reads one row, unless the output is computed with the same matrix.
    """
    if getattr(model.config.get_text_config(), "num_experts_per_tok", None):
        return None
    read = sum(parameter.nbytes for parameter in model.parameters())
    looked_up, output = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(looked_up, torch.nn.Embedding) and not (
        isinstance(output, torch.nn.Linear) and output.weight is looked_up.weight
    ):
        read -= looked_up.weight.nbytes
    return read
