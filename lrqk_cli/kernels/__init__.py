"""The operations of attention and of the model around it, one folder each.

Each folder has a plain ``reference``, and most have Triton kernels for tensors on a GPU. The folder's
``__init__`` is the operation, which chooses between them.

A decode step on a GPU runs these operations in this order, once per layer, in seven launches:
``append_token`` (one), ``score_tokens`` (one), ``select_rows`` (three), and ``attend_residents`` (two), which
also fetches rows. Rows with scales add one (``quantise_rows``), and ``dequantise_rows`` reads them back for
segments. With sources on, ``weigh_tokens`` (one) follows. ``replace_rows`` fetches rows outside of
such steps, and ``replace_rows_by_host`` those that a GPU cannot read. The model around attention uses
``rms_norm``, ``rotate``, ``gemv`` and ``gated_gemv``, and with packed weights ``fixed_point``,
``packed_gemv``, ``packed_gated_gemv``, ``packed_experts_gemv`` and ``unpack_rows``. Their Triton kernels do
not wait for the device, and no shape depends on data, so a CUDA graph can capture them. (The references read
the length and the experts on the host.) Most are dependent launches where a GPU has such, see
``dependent_launch``.

The prefill and plain steps use ``attend``, ``merge`` and ``encode_codes``; the prefill also uses
``sum_products`` and ``total_scores``, and for rows in managed memory ``copy_to_host`` and ``copy_from_host``;
plain steps use ``proxy_logits``, ``group_scores`` and ``plan_fetches``. Packing weights uses ``fit_scales``
and ``fit_scales_and_minima``.
"""

from lrqk_cli.kernels.append_token import append_token as append_token
from lrqk_cli.kernels.attend import attend as attend
from lrqk_cli.kernels.attend_residents import attend_residents as attend_residents
from lrqk_cli.kernels.copy_rows import copy_from_host as copy_from_host
from lrqk_cli.kernels.copy_rows import copy_to_host as copy_to_host
from lrqk_cli.kernels.dequantise_rows import dequantise_rows as dequantise_rows
from lrqk_cli.kernels.encode_codes import encode_codes as encode_codes
from lrqk_cli.kernels.fit_scales import fit_scales as fit_scales
from lrqk_cli.kernels.fit_scales import fit_scales_and_minima as fit_scales_and_minima
from lrqk_cli.kernels.fixed_point import fixed_point as fixed_point
from lrqk_cli.kernels.gated_gemv import gated_gemv as gated_gemv
from lrqk_cli.kernels.gemv import gemv as gemv
from lrqk_cli.kernels.merge import merge as merge
from lrqk_cli.kernels.packed_experts_gemv import packed_experts_gemv as packed_experts_gemv
from lrqk_cli.kernels.packed_gated_gemv import packed_gated_gemv as packed_gated_gemv
from lrqk_cli.kernels.packed_gemv import packed_gemv as packed_gemv
from lrqk_cli.kernels.plan_fetches import plan_fetches as plan_fetches
from lrqk_cli.kernels.proxy_scores import group_scores as group_scores
from lrqk_cli.kernels.proxy_scores import proxy_logits as proxy_logits
from lrqk_cli.kernels.quantise_rows import quantise_rows as quantise_rows
from lrqk_cli.kernels.replace_rows import replace_rows as replace_rows
from lrqk_cli.kernels.replace_rows import replace_rows_by_host as replace_rows_by_host
from lrqk_cli.kernels.rms_norm import rms_norm as rms_norm
from lrqk_cli.kernels.rotate import rotate as rotate
from lrqk_cli.kernels.score_tokens import score_tokens as score_tokens
from lrqk_cli.kernels.select_rows import select_rows as select_rows
from lrqk_cli.kernels.sum_products import sum_products as sum_products
from lrqk_cli.kernels.total_scores import total_scores as total_scores
from lrqk_cli.kernels.twins import has_triton as has_triton
from lrqk_cli.kernels.unpack_rows import unpack_rows as unpack_rows
from lrqk_cli.kernels.weigh_tokens import weigh_tokens as weigh_tokens
