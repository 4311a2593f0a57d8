"""Kernels of installed packages for recurrences, such as flash-linear-attention's, on a GPU alone.

transformers binds them when it is imported, in place of its own torch code and for every device. They cannot
compute on a CPU, nor on the meta device, where the sizes of states are counted.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn


def keep_to_gpus(model: nn.Module) -> None:
    """Let transformers' own torch code compute the recurrences of a model's family where there is no GPU."""
    names = {type(part).__module__ for part in model.modules()}
    for module in (sys.modules[name] for name in names if name.startswith("transformers.models.")):
        for name, function in inspect.getmembers(module, _calls_a_package):
            setattr(module, name, _by_device(function, inspect.unwrap(function)))


def _calls_a_package(function: Any) -> bool:
    """Return whether transformers calls an installed package in place of this function of its own."""
    if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
        return False
    return inspect.getclosurevars(function).nonlocals.get("is_new_implementation") is True


def _by_device(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``kernel`` for tensors on a GPU, else ``plain``."""

    @wraps(kernel)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        is_on_gpu = next(value.is_cuda for value in values if isinstance(value, Tensor))
        return (kernel if is_on_gpu else plain)(*args, **kwargs)

    return chosen
