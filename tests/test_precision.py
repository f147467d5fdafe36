"""bf16 autocast on the CPU agrees with fp32 also where oneDNN's grouped convolutions do not."""

import pytest
import torch

from voxstrata.backbone.encoder import build_backbone
from voxstrata.methods.pretraining.tiny_encoder import tiny_config


@pytest.mark.parametrize("kernel", [16, 31, 32])
def test_position_embedding_under_autocast_is_that_of_fp32(kernel: int) -> None:
    encoder = build_backbone(tiny_config(layers=1, position_kernel=kernel), seed=0)
    embed = encoder.model.encoder.pos_conv_embed
    frames = torch.randn(2, 60, 128)
    exact = embed(frames)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = embed(frames.bfloat16())
    assert (autocast.float() - exact).norm() < 0.02 * exact.norm()


def test_states_under_autocast_are_near_those_of_fp32() -> None:
    encoder = build_backbone(tiny_config(), seed=0)
    waveforms, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 12_000])
    exact = encoder(waveforms, lengths).layers[-1]
    with torch.autocast("cpu", torch.bfloat16):
        autocast = encoder(waveforms, lengths).layers[-1]
    assert (autocast.float() - exact)[0].norm() < 0.05 * exact[0].norm()
