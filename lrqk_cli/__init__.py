"""Chat with long documents on your own GPU: the KV cache in CPU memory, the rows that matter on the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrqk_cli.config import LrqkConfig
    from lrqk_cli.engine.attach import attach

__version__ = "0.2.0.dev0"
__all__ = ["LrqkConfig", "__version__", "attach"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `lrqk --help` must not wait for torch.
    if name == "LrqkConfig":
        from lrqk_cli.config import LrqkConfig

        return LrqkConfig
    if name != "attach":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    from lrqk_cli.upstream import untested_warning

    if warning := untested_warning():
        warnings.warn(warning, stacklevel=2)
    from lrqk_cli.engine.attach import attach

    globals()["attach"] = attach
    return attach
