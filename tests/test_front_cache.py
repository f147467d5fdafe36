"""What lies before the first tensor that a vector changes: from there on all is the same."""

import pytest
import torch

from tiny_merges import KINDS, batch, kept_and_read, moved, parts, score
from voxstrata.backbone.attention import set_attention
from voxstrata.errors import AudioError, CheckpointError
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone


def frozen_front(kind="wavlm", stable=True, norm="layer", **how):
    base, _ = parts(kind, stable, norm)
    vectors = {"asr": moved(base, 1, only="encoder."), "ser": moved(base, 2, only="feature_projection.")}
    return MergedBackbone(base, vectors, **how)


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("lengths", [(3000, 1300, 2200), (1500, 1500, 1500)])
@pytest.mark.parametrize("how", [{}, {"engine": "plain"}, {"granularity": "static"}])
def test_from_the_front_on_all_is_the_same(kind, stable, norm, lengths, how):
    merged = frozen_front(kind, stable, norm, **how)
    waveforms, counts = batch(lengths)
    expected = merged(waveforms, counts)
    for front in (merged.front(waveforms, counts), kept_and_read(Front(merged), waveforms, counts)):
        states = merged(waveforms, counts, front)
        for row, n in enumerate(expected.lengths.tolist()):
            for ours, theirs in zip(states.layers, expected.layers, strict=True):
                torch.testing.assert_close(ours[row, :n], theirs[row, :n], atol=1e-5, rtol=1e-5)
        assert torch.equal(states.lengths, expected.lengths)


def test_gradients_are_the_same():
    merged = frozen_front()
    waveforms, lengths = batch()
    found = []
    for front in (None, kept_and_read(Front(merged), waveforms, lengths)):
        merged.coefficients.grad = None
        states = merged(waveforms, lengths, front)
        score(states.layers, states.lengths).backward()
        found.append(merged.coefficients.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-5)


def test_no_bit_of_a_front_depends_on_the_other_clips():
    base, _ = parts()
    base.normalize = True
    merged = MergedBackbone(base, {"asr": moved(base, 1, only="encoder.")})
    # Sums over padding of another width round otherwise, in some of the clips.
    waveforms, lengths = batch((40_003, *range(17_777, 4_000, -1_500)))
    together = merged.front(waveforms, lengths)
    for row, n in enumerate(lengths.tolist()):
        alone = merged.front(waveforms[row : row + 1, :n], lengths[row : row + 1])
        assert torch.equal(together[row, :, : alone.shape[-1]], alone[0])


def test_other_weights_before_a_vector_are_told_apart():
    told = [Front(frozen_front()).identity(), Front(frozen_front()).identity()]
    base, _ = parts()
    with torch.no_grad():
        base.model.feature_extractor.conv_layers[0].conv.weight.mul_(1.5)
    told.append(Front(MergedBackbone(base, {"asr": moved(base, 1, only="encoder.")})).identity())
    base, _ = parts()
    with torch.no_grad():
        base.model.encoder.layers[1].attention.q_proj.weight.mul_(1.5)
    told.append(Front(MergedBackbone(base, {"asr": moved(base, 1, only="encoder.")})).identity())
    assert told[0] == told[1] == told[3] != told[2]


def test_a_front_end_that_a_vector_changes_cannot_be_kept():
    base, vectors = parts()
    merged = MergedBackbone(base, {"lid": moved(base, 3, only="encoder."), **vectors})
    waveforms, lengths = batch()
    assert merged.fixed_layers is None and frozen_front().fixed_layers == 0
    for refused in (
        lambda: merged.front(waveforms, lengths),
        lambda: Front.of(merged),
        lambda: merged(waveforms, lengths, frozen_front().front(waveforms, lengths)),
    ):
        with pytest.raises(CheckpointError, match="asr, ser change the convolutional front end"):
            refused()


def test_features_of_other_clips_are_refused():
    merged = frozen_front()
    waveforms, lengths = batch()
    front = merged.front(waveforms, lengths)
    for wrong in (front[:2], front[..., 1:], front[:, 1:]):
        with pytest.raises(CheckpointError, match="features"):
            merged(waveforms, lengths, wrong)
    assert "forward" not in merged._skeleton[0].__dict__
    with pytest.raises(AudioError, match="too short"):
        merged.front(waveforms[:, :100], lengths * 0 + 100)


def lower_layers_fixed(kind="wavlm", stable=True, norm="layer", **how):
    """Vectors from layer 3 of 4 on; the norm of the encoder itself comes last with pre-norm layers only."""
    base, _ = parts(kind, stable, norm, num_hidden_layers=4)
    changed = ("encoder.layers.2.", "encoder.layers.3.", *(("encoder.layer_norm.",) if stable else ()))
    return MergedBackbone(
        base, {"asr": moved(base, 1, only=changed), "ser": moved(base, 2, only=changed[1])}, **how
    )


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("attention", ["fast", "reference"])
@pytest.mark.parametrize("how", [{}, {"engine": "plain"}, {"gradient_checkpointing": True}])
def test_from_the_lower_layers_on_all_is_the_same(kind, stable, norm, attention, how):
    merged = lower_layers_fixed(kind, stable, norm, **how)
    set_attention(merged._skeleton[0].model, attention)
    deepest = Front.of(merged)
    assert merged.fixed_layers == 2 == deepest.layers
    smaller = deepest.smaller()
    assert smaller == Front(merged) and smaller.smaller() is None
    waveforms, counts = batch()
    found = []
    for front in (None, merged.front(waveforms, counts, 2), kept_and_read(deepest, waveforms, counts)):
        merged.coefficients.grad = None
        states = merged(waveforms, counts, front)
        score(states.layers, states.lengths).backward()
        found.append((states, merged.coefficients.grad))
    (expected, gradient), *others = found
    for states, other in others:
        for row, n in enumerate(expected.lengths.tolist()):
            for ours, theirs in zip(states.layers, expected.layers, strict=True):
                torch.testing.assert_close(ours[row, :n], theirs[row, :n], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other, gradient, atol=1e-4, rtol=1e-4)


def test_layers_whose_states_are_known_are_not_run():
    merged = lower_layers_fixed()
    waveforms, lengths = batch()
    front = merged.front(waveforms, lengths, 2)
    run = []
    layers = merged._skeleton[0].model.encoder.layers
    for number, layer in enumerate(layers):
        layer.attention.register_forward_hook(lambda *_, number=number: run.append(number))
    merged(waveforms, lengths, front)
    assert run == [2, 3]


def test_states_that_depend_on_coefficients_are_refused():
    merged = lower_layers_fixed()
    waveforms, lengths = batch()
    for refused in (
        lambda: merged.front(waveforms, lengths, 3),
        lambda: Front(merged, 3),
        lambda: merged(waveforms, lengths, torch.zeros(3, 3, 32, 9)),
    ):
        with pytest.raises(
            CheckpointError, match=r"states of 3 layers depend on the coefficients; .* 2 may be kept"
        ):
            refused()


def test_the_norm_before_post_norm_layers_counts():
    base, _ = parts("wavlm", stable=False, norm="group")
    merged = MergedBackbone(base, {"asr": moved(base, 1, only=("encoder.layer_norm.", "encoder.layers.1."))})
    assert merged.fixed_layers == 0
