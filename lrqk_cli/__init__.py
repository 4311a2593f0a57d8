"""Chat with long documents on your own GPU: the KV cache lives in CPU memory, the rows that matter on the GPU."""

from __future__ import annotations

__version__ = "0.1.0"
