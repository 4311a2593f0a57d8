"""The bytes that a decode step must read, and the limit that memory bandwidth sets to its speed."""

from __future__ import annotations

from dataclasses import dataclass

from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory.accounting import kv_bytes, weight_bytes_read
from lrqk_cli.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second.

    Attributes:
        memory: of the device's memory, reads and writes together; on a CPU, reads.
        link: from pinned host memory to the device; None if both are one memory, or if unknown.
    """

    memory: float
    link: float | None


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes that a decode step must read.

    Attributes:
        device: from the device's memory: weights, and index and hot rows or the KV rows.
        link: from host memory: experts that stay there, and the KV rows under ``offload``. Excludes the
            misses of ``lrqk``: the bound assumes a hit rate of 100%.
    """

    device: int
    link: int

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.device + self.link

    def tokens_per_second(self, bandwidth: Bandwidth) -> float:
        """Return the upper bound of the speed; memory and link can transfer at the same time."""
        if bandwidth.link is None:
            return bandwidth.memory / self.total
        return 1.0 / max(self.device / bandwidth.memory, self.link / bandwidth.link)


def step_bytes(spec: ModelSpec, config: LrqkConfig, depth: int, dtype: str) -> StepBytes | None:
    """Return the bytes of a step after ``depth`` tokens.

    Args:
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.

    Returns:
        None if the weights that a step reads are unknown: see ``ModelSpec.num_parameters_read``.
    """
    weights = weight_bytes_read(spec, dtype)
    if weights is None:
        return None
    kv = kv_bytes(spec, config, depth, dtype)
    from_host = 0 if spec.packed is None else spec.packed.read_on_host
    return StepBytes(weights + kv.read, from_host + (kv.host_kv if config.attention == "offload" else 0))
