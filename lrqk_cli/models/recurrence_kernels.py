"""Kernels of installed packages for recurrences, such as flash-linear-attention's, on a GPU alone.

transformers binds them when it is imported, in place of its own torch code and for every device. They cannot
compute on a CPU, nor on the meta device, where the sizes of states are counted.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from lrqk_cli.kernels.twins import has_triton

# What transformers imports from flash-linear-attention.
_FLASH_LINEAR_ATTENTION = "fla"


def keep_to_gpus(model: nn.Module) -> None:
    """Let transformers' own torch code compute the recurrences of a model's family where there is no GPU."""
    for module, name, function, choice in _replaceable(model):
        if choice["is_new_implementation"]:
            setattr(module, name, _by_device(function, inspect.unwrap(function)))


def lacks_kernels(model: nn.Module) -> bool:
    """Return whether flash-linear-attention would compute recurrences of the model, if it were installed."""
    if not has_triton() or not next(model.parameters()).is_cuda:
        return False
    choices = (choice for *_, choice in _replaceable(model) if choice["package"] == _FLASH_LINEAR_ATTENTION)
    return any(not choice["is_new_implementation"] for choice in choices)


def _replaceable(model: nn.Module) -> Iterator[tuple[ModuleType, str, Callable[..., Any], dict[str, Any]]]:
    """Yield the functions of transformers that packages may replace, with what it noted of its choice."""
    names = {type(part).__module__ for part in model.modules()}
    for module in (sys.modules[name] for name in names if name.startswith("transformers.models.")):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            choice = inspect.getclosurevars(function).nonlocals if hasattr(function, "__wrapped__") else {}
            if {"is_new_implementation", "package"} <= set(choice):
                yield module, name, function, dict(choice)


def _by_device(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``kernel`` for tensors on a GPU, else ``plain``."""

    @wraps(kernel)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        is_on_gpu = next(value.is_cuda for value in values if isinstance(value, Tensor))
        return (kernel if is_on_gpu else plain)(*args, **kwargs)

    return chosen
