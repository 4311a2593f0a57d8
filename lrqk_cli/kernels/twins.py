"""The choice between an operation's reference and its equivalent Triton kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# A function that launches Triton kernels; a test checks that it has the reference's signature.
Twin = Callable[..., _Result]


@cache
def has_triton() -> bool:
    """Return whether Triton is installed; on Linux it comes with torch."""
    return find_spec("triton") is not None


def with_triton(
    reference: Callable[_Arguments, _Result], twin: Callable[[], Twin[_Result]]
) -> Callable[_Arguments, _Result]:
    """Return the operation: it calls the Triton twin on a GPU if Triton is installed, else the reference.

    The first argument, a tensor, a packed matrix or a tuple of either, determines the device.

    Args:
        twin: imports and returns the twin; called at the first use on a GPU.
    """
    twin = cache(twin)

    @wraps(reference)
    def operation(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        first = args[0]
        tensor = cast(Tensor, first[0] if isinstance(first, tuple) else first)
        if not (tensor.device.type == "cuda" and has_triton()):
            return reference(*args, **kwargs)
        # Triton launches on the current device, which need not be that of the arguments.
        with torch.cuda.device(tensor.device):
            return twin()(*args, **kwargs)

    return operation
