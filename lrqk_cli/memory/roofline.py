"""What a decode step has to read, and the speed at which memory could deliver it."""

from __future__ import annotations

from dataclasses import dataclass

from lrqk_cli.config import LrqkConfig, ModelSpec
from lrqk_cli.memory.accounting import kv_bytes, weight_bytes_read


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second.

    Attributes:
        memory: of the device, reads and writes together; of a CPU, reads.
        link: from pinned host memory to the device; None where they are one, or where it is not known.
    """

    memory: float
    link: float | None


@dataclass(frozen=True, slots=True)
class StepBytes:
    """What a decode step has to read.

    Attributes:
        device: from the device's memory: weights, and index and hot rows or the KV rows.
        link: from host memory in any case: the KV rows under ``offload``. Excludes the misses
            of ``lrqk``: the bound assumes a hit rate of 100%.
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


def step_bytes(spec: ModelSpec, config: LrqkConfig, depth: int, dtype: str) -> StepBytes | None:
    """Return the bytes of a step after ``depth`` tokens.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.

    Returns:
        None where it is not known which weights a step reads: see ``ModelSpec.num_parameters_read``.
    """
    weights = weight_bytes_read(spec, dtype)
    if weights is None:
        return None
    kv = kv_bytes(spec, config, depth, dtype)
    return StepBytes(weights + kv.read, kv.host_kv if config.attention == "offload" else 0)
