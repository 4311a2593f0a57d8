"""The operations of a decode step, on Triton where the tensors are on a GPU and Triton is installed.

They run in this order, once a layer: ``append_token``, ``score_tokens``, ``select_rows``,
``attend_residents``, which fetches; seven launches. ``weigh_tokens`` follows where somebody asks for sources.
``replace_rows`` fetches alone, outside of these steps. ``rms_norm``, ``rotate``, ``gemv`` and ``gated_gemv``
are for the model around them; ``fixed_point``, ``packed_gemv``, ``packed_gated_gemv``,
``packed_experts_gemv`` and ``unpack_rows`` where its weights are packed. None waits for the device, and no
shape depends on data, so all of them can be captured in a CUDA graph (the references, for the CPU, do read
the length and the experts).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import ParamSpec, TypeVar, cast

from torch import Tensor

from lrqk_cli.kernels.append_token import reference as append_token_reference
from lrqk_cli.kernels.attend_residents import reference as attend_residents_reference
from lrqk_cli.kernels.fixed_point import reference as fixed_point_reference
from lrqk_cli.kernels.gated_gemv import reference as gated_gemv_reference
from lrqk_cli.kernels.gemv import reference as gemv_reference
from lrqk_cli.kernels.packed_experts_gemv import reference as packed_experts_gemv_reference
from lrqk_cli.kernels.packed_gated_gemv import reference as packed_gated_gemv_reference
from lrqk_cli.kernels.packed_gemv import reference as packed_gemv_reference
from lrqk_cli.kernels.replace_rows import reference as replace_rows_reference
from lrqk_cli.kernels.rms_norm import reference as rms_norm_reference
from lrqk_cli.kernels.rotate import reference as rotate_reference
from lrqk_cli.kernels.score_tokens import reference as score_tokens_reference
from lrqk_cli.kernels.select_rows import reference as select_rows_reference
from lrqk_cli.kernels.unpack_rows import reference as unpack_rows_reference
from lrqk_cli.kernels.weigh_tokens import reference as weigh_tokens_reference

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed; torch brings it along on Linux."""
    return find_spec("triton") is not None


@cache
def _triton_twin(reference: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    package = reference.__module__.rpartition(".")[0]
    twin = getattr(import_module(f"{package}.triton"), reference.__name__)
    return cast(Callable[_Arguments, _Result], twin)


def with_triton(reference: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return the operation; its first argument, a tensor, a packed matrix or a tuple, tells the device."""

    @wraps(reference)
    def operation(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        first = args[0]
        tensor = cast(Tensor, first[0] if isinstance(first, tuple) else first)
        chosen = _triton_twin(reference) if tensor.is_cuda and has_triton() else reference
        return chosen(*args, **kwargs)

    return operation


append_token = with_triton(append_token_reference.append_token)
score_tokens = with_triton(score_tokens_reference.score_tokens)
select_rows = with_triton(select_rows_reference.select_rows)
replace_rows = with_triton(replace_rows_reference.replace_rows)
attend_residents = with_triton(attend_residents_reference.attend_residents)
rms_norm = with_triton(rms_norm_reference.rms_norm)
rotate = with_triton(rotate_reference.rotate)
weigh_tokens = with_triton(weigh_tokens_reference.weigh_tokens)
gemv = with_triton(gemv_reference.gemv)
gated_gemv = with_triton(gated_gemv_reference.gated_gemv)
fixed_point = with_triton(fixed_point_reference.fixed_point)
packed_gemv = with_triton(packed_gemv_reference.packed_gemv)
packed_gated_gemv = with_triton(packed_gated_gemv_reference.packed_gated_gemv)
packed_experts_gemv = with_triton(packed_experts_gemv_reference.packed_experts_gemv)
unpack_rows = with_triton(unpack_rows_reference.unpack_rows)
