"""Copy rows between a device and the host's memory."""

from lrqk_cli.kernels.copy_rows import reference
from lrqk_cli.kernels.twins import Twin, with_triton


def _to_host() -> Twin[None]:
    from lrqk_cli.kernels.copy_rows import triton

    return triton.copy_to_host


def _from_host() -> Twin[None]:
    from lrqk_cli.kernels.copy_rows import triton

    return triton.copy_from_host


copy_to_host = with_triton(reference.copy_to_host, _to_host)
copy_from_host = with_triton(reference.copy_from_host, _from_host)
