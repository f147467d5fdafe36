"""The front end's output of a clip, computed once."""

import pytest
import torch

from tiny_merges import KINDS, batch, moved, parts, score
from voxstrata.backbone.attention import set_attention
from voxstrata.errors import AudioError, CheckpointError
from voxstrata.methods.adaltm.lean.front_cache import FrontCache, front_bytes
from voxstrata.methods.adaltm.merged import MergedBackbone

IDS = ("a", "b", "c")


def frozen_front(kind="wavlm", stable=True, norm="layer", **how):
    base, _ = parts(kind, stable, norm)
    vectors = {"asr": moved(base, 1, only="encoder."), "ser": moved(base, 2, only="feature_projection.")}
    return MergedBackbone(base, vectors, **how)


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
@pytest.mark.parametrize("lengths", [(3000, 1300, 2200), (1500, 1500, 1500)])
@pytest.mark.parametrize("how", [{}, {"engine": "plain"}, {"granularity": "static"}])
def test_from_the_front_on_all_is_the_same(tmp_path, kind, stable, norm, lengths, how):
    merged = frozen_front(kind, stable, norm, **how)
    cache = FrontCache(merged, tmp_path, budget_bytes=10**7)
    waveforms, counts = batch(lengths)
    expected = merged(waveforms, counts)
    for _ in range(2):
        states = merged(waveforms, counts, cache.features(IDS, waveforms, counts))
        for row, n in enumerate(expected.lengths.tolist()):
            for ours, theirs in zip(states.layers, expected.layers, strict=True):
                torch.testing.assert_close(ours[row, :n], theirs[row, :n], atol=1e-5, rtol=1e-5)
        assert torch.equal(states.lengths, expected.lengths)


def test_gradients_are_the_same(tmp_path):
    merged = frozen_front()
    cache = FrontCache(merged, tmp_path, budget_bytes=10**7)
    waveforms, lengths = batch()
    found = []
    for front in (None, cache.features(IDS, waveforms, lengths)):
        merged.coefficients.grad = None
        states = merged(waveforms, lengths, front)
        score(states.layers, states.lengths).backward()
        found.append(merged.coefficients.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-5)


def test_a_known_clip_is_not_computed_again(tmp_path, monkeypatch):
    merged = frozen_front()
    cache = FrontCache(merged, tmp_path, budget_bytes=10**7)
    waveforms, lengths = batch()
    first = cache.features(IDS, waveforms, lengths)
    asked = []
    front = merged.front
    monkeypatch.setattr(merged, "front", lambda w, n, layers: asked.append(n.tolist()) or front(w, n, layers))
    again = FrontCache(merged, tmp_path, budget_bytes=10**7)
    assert again.used_bytes == cache.used_bytes > 0
    assert torch.equal(again.features(IDS, waveforms, lengths), first)
    order = [2, 0]
    frames = int(merged.frame_lengths(lengths[order]).max())
    part = again.features(("c", "a"), waveforms[order], lengths[order])
    assert torch.equal(part, first[order][..., :frames])
    assert not asked
    again.features(("a", "d"), waveforms[:2], lengths[:2])
    assert asked == [[1300]]


def test_other_audio_under_a_known_id_is_refused(tmp_path):
    cache = FrontCache(frozen_front(), tmp_path, budget_bytes=10**7)
    waveforms, lengths = batch()
    cache.features(IDS, waveforms, lengths)
    cropped = lengths.clone()
    cropped[0] -= 320
    for changed in ((waveforms, cropped), (waveforms * 0.5, lengths), (waveforms.roll(1), lengths)):
        with pytest.raises(CheckpointError, match="crops or augmentation"):
            cache.features(IDS, *changed)


def test_clips_that_do_not_fit_are_refused_at_once_with_an_estimate(tmp_path):
    merged = frozen_front()
    lengths = [16000 * 5] * 1000
    needed = front_bytes(merged, lengths)
    assert needed == 1000 * (249 * 16 * 4 + 4096)
    with pytest.raises(CheckpointError, match=r"takes 0\.02 GB, the budget is 0\.001 GB"):
        FrontCache(merged, tmp_path, budget_bytes=10**6, lengths=lengths)
    assert not list(tmp_path.iterdir())
    FrontCache(merged, tmp_path, budget_bytes=needed, lengths=lengths)


def test_the_estimate_is_from_above(tmp_path):
    merged = frozen_front()
    cache = FrontCache(merged, tmp_path, budget_bytes=10**7)
    waveforms, lengths = batch()
    cache.features(IDS, waveforms, lengths)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert written == cache.used_bytes <= front_bytes(merged, lengths.tolist())


def test_the_budget_holds(tmp_path):
    waveforms, lengths = batch()
    cache = FrontCache(frozen_front(), tmp_path, budget_bytes=1500)
    with pytest.raises(CheckpointError, match="no room for clip"):
        cache.features(IDS, waveforms, lengths)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1500


def test_other_weights_have_files_of_their_own(tmp_path):
    waveforms, lengths = batch()
    merged = frozen_front()
    FrontCache(merged, tmp_path, budget_bytes=10**7).features(IDS, waveforms, lengths)
    base, _ = parts()
    with torch.no_grad():
        base.model.feature_extractor.conv_layers[0].conv.weight.mul_(1.5)
    other = MergedBackbone(base, {"asr": moved(base, 1, only="encoder.")})
    found = FrontCache(other, tmp_path, budget_bytes=10**7).features(IDS, waveforms, lengths)
    torch.testing.assert_close(found, other.front(waveforms, lengths), atol=1e-6, rtol=1e-5)


def test_a_file_cut_short_is_named(tmp_path):
    waveforms, lengths = batch()
    cache = FrontCache(frozen_front(), tmp_path, budget_bytes=10**7)
    cache.features(IDS, waveforms, lengths)
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot read"):
        cache.features(IDS, waveforms, lengths)


def test_a_front_end_that_a_vector_changes_cannot_be_kept(tmp_path):
    base, vectors = parts()
    merged = MergedBackbone(base, {"lid": moved(base, 3, only="encoder."), **vectors})
    waveforms, lengths = batch()
    assert merged.fixed_layers is None and frozen_front().fixed_layers == 0
    for refused in (
        lambda: merged.front(waveforms, lengths),
        lambda: FrontCache(merged, tmp_path, budget_bytes=10**7),
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
def test_from_the_lower_layers_on_all_is_the_same(tmp_path, kind, stable, norm, attention, how):
    merged = lower_layers_fixed(kind, stable, norm, **how)
    set_attention(merged._skeleton[0].model, attention)
    assert merged.fixed_layers == 2
    cache = FrontCache(merged, tmp_path, budget_bytes=10**7, layers=2)
    waveforms, counts = batch()
    found = []
    for front in (None, cache.features(IDS, waveforms, counts), cache.features(IDS, waveforms, counts)):
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


def test_states_that_depend_on_coefficients_are_refused(tmp_path):
    merged = lower_layers_fixed()
    waveforms, lengths = batch()
    for refused in (
        lambda: merged.front(waveforms, lengths, 3),
        lambda: FrontCache(merged, tmp_path, budget_bytes=10**7, layers=3),
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
