"""Estimate the peak of device memory, item by item, from a model's shape and the settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting, activations, allocator
from lrqk_cli.memory.scratch import decode_scratch
from lrqk_cli.model_spec import ModelSpec

DEFAULT_SEGMENT = 8192
# A CPU takes seconds for this many tokens, and progress and interruption wait for a segment's end.
CPU_SEGMENT = 512

# The CUDA context and the kernels loaded into it, outside torch's allocator.
CUDA_CONTEXT_BYTES = 800 << 20
# cuBLAS's workspaces in torch's allocator, on the largest GPUs: one for prefill, one for captured steps.
CUBLAS_BYTES = 2 * (32 << 20)


@dataclass(frozen=True, slots=True)
class DeviceEstimate:
    """Bytes on the device at the peak.

    Attributes:
        items: bytes by name, in the order of display; temporary tensors are one item, named by the phase that
            needs most of them. Each item and phase needs a label in ``_ITEMS`` of ``cli.footprint_view``.
        host_kv: bytes of the KV rows in host memory; ``host_weights``: those of weights.
    """

    items: Mapping[str, int]
    host_kv: int
    host_weights: int = 0

    @property
    def total(self) -> int:
        """Bytes that the device must have free."""
        return sum(self.items.values())

    @property
    def allocated(self) -> int:
        """Peak bytes by torch's count: without the CUDA context and without memory that cannot be reused."""
        return self.total - self.items["cuda_context"] - self.items["fragments"]

    @property
    def beside_device(self) -> int:
        """Bytes of host memory that are needed beside a GPU."""
        return self.host_kv + self.host_weights

    @property
    def on_host(self) -> int:
        """Bytes of host memory that a CPU needs for everything."""
        return self.allocated - self.items["cublas"] + self.host_kv


def estimate(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> DeviceEstimate:
    """Estimate the peak memory of prefill and decode for a text that fills the context.

    Args:
        context: tokens reserved.
        dtype: of weights and rows, as in ``torch.dtype`` without its prefix.
    """
    kv = accounting.kv_bytes(spec, config, context, dtype)
    phases = transient_bytes(spec, config, context, dtype)
    worst_phase = max(phases, key=lambda name: phases[name])
    phase_peak = phases[worst_phase]
    items = {
        "weights": accounting.weight_bytes(spec, dtype),
        "kv_rows": kv.device_kv,
        "index": kv.index,
        "hot_rows": kv.hot,
        "sliding_windows": kv.sliding,
        # A copy of them lasts as long as the model reads a segment.
        "states": 2 * accounting.state_bytes(spec, dtype),
        "bookkeeping": kv.bookkeeping + activations.seed_bytes(spec, config, dtype),
        "decode_scratch": sum(shape.nbytes for shape in decode_scratch(spec, config, context)),
        "logits": activations.logits_bytes(spec, config, dtype),
        worst_phase: phase_peak,
        "cublas": CUBLAS_BYTES,
        "fragments": allocator.unusable_bytes(phase_peak, spec.num_layers),
        "cuda_context": CUDA_CONTEXT_BYTES,
    }
    return DeviceEstimate(items, kv.host_kv, accounting.host_weight_bytes(spec))


def allocatable(vram: int) -> int:
    """Return the bytes of ``vram`` that torch may allocate: all but the CUDA context."""
    return max(0, vram - CUDA_CONTEXT_BYTES)


def transient_bytes(spec: ModelSpec, config: LrqkConfig, context: int, dtype: str) -> dict[str, int]:
    """Return the peak bytes of temporary tensors by phase; see ``estimate``."""
    segment = min(config.segment or DEFAULT_SEGMENT, context)
    earlier = context - segment
    streamed = activations.stream_bytes(spec, config, earlier, dtype, segment)
    attention = streamed + activations.attention_bytes(spec, config, segment, earlier, dtype)
    dense_part = max(
        activations.mlp_bytes(spec, segment, dtype), activations.norm_bytes(spec, segment, dtype)
    )
    standing = activations.segment_bytes(spec, segment, dtype)
    finishing = activations.finish_prefill_bytes(spec, config, context)
    if finishing:
        # The last segment may still be in the layer's attention.
        finishing += activations.stream_bytes(spec, config, context, dtype)
        finishing += standing + activations.layer_bytes(spec, config, segment, dtype)
    return {
        "prefill_inputs": standing + activations.per_layer_bytes(spec, segment, dtype),
        "prefill_attention": standing + attention,
        "prefill_mlp": standing + dense_part,
        "prefill_state": 0
        if spec.states is None
        else standing + activations.state_bytes(spec, segment, dtype),
        # ``finish_prefill``, by the name that it has in the JSON of ``lrqk info``.
        "settling": finishing,
    }
