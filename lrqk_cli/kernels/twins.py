"""How an operation chooses between its reference and the Triton kernels that do the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar, cast

from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# A function of Triton's, with the reference's signature, which a test compares.
Twin = Callable[..., _Result]


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed; torch brings it along on Linux."""
    return find_spec("triton") is not None


def with_triton(
    reference: Callable[_Arguments, _Result], twin: Callable[[], Twin[_Result]]
) -> Callable[_Arguments, _Result]:
    """Return the operation: the reference, or its Triton twin on a GPU where Triton is installed.

    The first argument, a tensor, a packed matrix or a tuple of either, tells the device.

    Args:
        twin: imports the twin and returns it; called when a GPU needs it first.
    """
    twin = cache(twin)

    @wraps(reference)
    def operation(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        first = args[0]
        tensor = cast(Tensor, first[0] if isinstance(first, tuple) else first)
        chosen = twin() if tensor.is_cuda and has_triton() else reference
        return chosen(*args, **kwargs)

    return operation
