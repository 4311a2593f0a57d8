"""Find the scales and minima with the least quantisation error of groups of weights."""

from lrqk_cli.kernels.fit_scales import reference
from lrqk_cli.kernels.fit_scales.reference import nearest_codes as nearest_codes
from lrqk_cli.kernels.twins import Twin, with_triton


def _triton() -> Twin[None]:
    from lrqk_cli.kernels.fit_scales import triton

    return triton.fit_scales


def _triton_with_minima() -> Twin[None]:
    from lrqk_cli.kernels.fit_scales import triton

    return triton.fit_scales_and_minima


fit_scales = with_triton(reference.fit_scales, _triton)
fit_scales_and_minima = with_triton(reference.fit_scales_and_minima, _triton_with_minima)
