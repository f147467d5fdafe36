"""From the encoder's frames to a language model's inputs: fewer, and of its size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from voxstrata.methods.harmonifuse.lm.sequences import valid


def stack_frames(frames: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Every `count` frames side by side: [B, T, D], [B] -> [B, ceil(T / count), count * D], [B].

    What stands behind a clip's end is taken as zero, so a clip's last stack does not depend on the batch.

    Args:
        frames: [B, T, D].
        lengths: [B] valid frames.
        count: frames to a stack.
    """
    batch, longest, size = frames.shape
    behind = ~valid(lengths, longest).unsqueeze(-1)
    kept = F.pad(frames.masked_fill(behind, 0), (0, 0, 0, -longest % count))
    return kept.reshape(batch, -1, count * size), -(-lengths // count)


class Connector(nn.Module):
    """Stacks frames, then Linear, ReLU, Linear.

    The paper does not state its connector; this is the form of SLAM-ASR (arXiv 2402.08846). Five frames of
    20 ms make one input each 100 ms.

    Args:
        size: D of the encoder.
        out: features of the language model.
        width: between the two maps.
        stack: frames to an input.
    """

    def __init__(self, size: int, out: int, *, width: int = 2048, stack: int = 5) -> None:
        super().__init__()
        self.stack = stack
        self.maps = nn.Sequential(nn.Linear(stack * size, width), nn.ReLU(), nn.Linear(width, out))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D], [B] valid frames -> [B, S, out], [B] valid inputs."""
        stacked, counts = stack_frames(frames, lengths, self.stack)
        return self.maps(stacked), counts
