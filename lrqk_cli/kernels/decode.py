"""The operations of a decode step, on Triton where the tensors are on a GPU and Triton is installed.

They run in this order, once a layer: ``append_token``, ``score_tokens``, ``select_rows``,
``attend_residents``, which fetches; seven launches. ``weigh_tokens`` follows where somebody asks for sources.
``replace_rows`` fetches alone, outside of these steps. ``rms_norm`` and ``rotate`` are for the model around
them. None waits for the device, and no shape depends on data, so all of them can be captured in a CUDA graph
(the references, for the CPU, do read the length).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import ParamSpec, cast

from torch import Tensor

from lrqk_cli.kernels.append_token import reference as append_token_reference
from lrqk_cli.kernels.attend_residents import reference as attend_residents_reference
from lrqk_cli.kernels.replace_rows import reference as replace_rows_reference
from lrqk_cli.kernels.rms_norm import reference as rms_norm_reference
from lrqk_cli.kernels.rotate import reference as rotate_reference
from lrqk_cli.kernels.score_tokens import reference as score_tokens_reference
from lrqk_cli.kernels.select_rows import reference as select_rows_reference
from lrqk_cli.kernels.weigh_tokens import reference as weigh_tokens_reference

_Arguments = ParamSpec("_Arguments")


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed; torch brings it along on Linux."""
    return find_spec("triton") is not None


@cache
def _triton_twin(reference: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    package = reference.__module__.rpartition(".")[0]
    twin = getattr(import_module(f"{package}.triton"), reference.__name__)
    return cast(Callable[_Arguments, None], twin)


def _with_triton(reference: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Return the operation; its first argument, a tensor or a tuple of tensors, tells the device."""

    @wraps(reference)
    def operation(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        first = args[0]
        tensor = cast(Tensor, first[0] if isinstance(first, tuple) else first)
        chosen = _triton_twin(reference) if tensor.is_cuda and has_triton() else reference
        chosen(*args, **kwargs)

    return operation


append_token = _with_triton(append_token_reference.append_token)
score_tokens = _with_triton(score_tokens_reference.score_tokens)
select_rows = _with_triton(select_rows_reference.select_rows)
replace_rows = _with_triton(replace_rows_reference.replace_rows)
attend_residents = _with_triton(attend_residents_reference.attend_residents)
rms_norm = _with_triton(rms_norm_reference.rms_norm)
rotate = _with_triton(rotate_reference.rotate)
weigh_tokens = _with_triton(weigh_tokens_reference.weigh_tokens)
