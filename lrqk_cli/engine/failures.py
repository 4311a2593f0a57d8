"""Turn what goes wrong while a model computes into one sentence and one hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from lrqk_cli.errors import ModelError
from lrqk_cli.memory.exhaustion import memory_errors


@contextmanager
def compute_errors() -> Iterator[None]:
    """Raise an LrqkError where memory runs out in the block, or where numbers are not finite."""
    try:
        with memory_errors():
            yield
    except LinAlgError:
        # The solvers take symmetric matrices and regularised systems: only infinities and NaN defeat them.
        raise not_finite() from None


def not_finite() -> ModelError:
    """Return what to tell the user of a model whose numbers overflow, or never were any."""
    return ModelError(
        "The model computes values that are not finite numbers, so there is no answer.",
        "Its weights or its configuration may be damaged; in float16, try --dtype float32 or bfloat16.",
    )
