"""A linear layer whose weight lies in a file in parts, or with its columns in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ArrangedLinear(nn.Module):
    """Linear layers of one input side by side, with inputs and outputs in another order than theirs.

    A packed row can move to another place, but not a column, because a block spans many columns. And two
    matrices with blocks of different types cannot become one. So the weights keep the layout of the file, and
    the activations, a few thousand numbers a token, take it.

    Args:
        parts: the layers; their outputs follow one another.
        inputs: for each number of the parts' input its place in this layer's input, ``[in_features]``; None
            for the same order.
        outputs: for each number of this layer's output its place in the parts' outputs, ``[out_features]``;
            None for the same order.
    """

    inputs: Tensor | None
    outputs: Tensor | None

    def __init__(
        self, parts: Sequence[nn.Module], inputs: Tensor | None = None, outputs: Tensor | None = None
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``[..., in_features]``."""
        if self.inputs is not None:
            input = input.index_select(-1, self.inputs)
        found = [part(input) for part in self.parts]
        output: Tensor = found[0] if len(found) == 1 else torch.cat(found, -1)
        return output if self.outputs is None else output.index_select(-1, self.outputs)
