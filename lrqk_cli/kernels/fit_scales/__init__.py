"""Find the scales and minima with the least quantisation error of groups of weights."""

from lrqk_cli.kernels.fit_scales import reference
from lrqk_cli.kernels.fit_scales.reference import nearest_codes as nearest_codes
from lrqk_cli.kernels.twins import with_triton

fit_scales = with_triton(reference.fit_scales)
fit_scales_and_minima = with_triton(reference.fit_scales_and_minima)
