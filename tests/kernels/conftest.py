"""Triton kernels run on a CUDA device where there is one, and always in Triton's interpreter otherwise."""

from __future__ import annotations

import os

import torch

# Triton reads this when a kernel is defined, so it is set before any test module imports one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
