"""Turn failures of a computing model into one sentence and one hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from lrqk_cli.errors import ModelError
from lrqk_cli.memory.exhaustion import memory_errors


@contextmanager
def compute_errors() -> Iterator[None]:
    """Raise an LrqkError if memory runs out in the block, or if numbers are not finite."""
    try:
        with memory_errors():
            yield
    except LinAlgError:
        # The systems are symmetric or regularised, so a solver fails only at infinities and NaN.
        raise not_finite() from None


def not_finite() -> ModelError:
    """Return the error of a model that computes infinities or NaN."""
    return ModelError(
        "The model computes values that are not finite numbers, so there is no answer.",
        "Its weights or its configuration may be damaged; in float16, try `dtype` float32 or bfloat16.",
    )
