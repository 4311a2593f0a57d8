"""Device functions that several Triton kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def soft_cap(logits, cap):
    """Return ``cap · tanh(logits / cap)``; tanh is written out, since the interpreter has none."""
    # tanh is 1 in float32 long before 40; the exponential would overflow from 88 on.
    return cap * (1.0 - 2.0 / (tl.exp(tl.minimum(2.0 * logits / cap, 40.0)) + 1.0))


@triton.jit
def total_mass(peaks, masses, count, CHUNK: tl.constexpr):
    """Return the largest of ``count`` peaks x, and ``Σ mass · exp(peak - x)``."""
    peak = float("-inf")
    mass = 0.0
    start = 0
    # Not a ``for``: numpy 2.4 and later keep Triton's interpreter from taking tensors as bounds.
    while start < count:
        place = start + tl.arange(0, CHUNK)
        inside = place < count
        chunk_peaks = tl.load(peaks + place, mask=inside, other=float("-inf"))
        chunk_masses = tl.load(masses + place, mask=inside, other=0.0)
        higher = tl.maximum(peak, tl.max(chunk_peaks, 0))
        # Where everything so far is empty, minus infinity must not be taken from itself.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        mass = mass * tl.exp(peak - base) + tl.sum(chunk_masses * tl.exp(chunk_peaks - base), 0)
        peak = higher
        start += CHUNK
    return peak, mass
