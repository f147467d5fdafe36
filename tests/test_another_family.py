"""A family of encoders takes one file: w2v-BERT 2.0 is written here, and all above it runs unchanged."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertModel,
    WavLMConfig,
)

import voxstrata
from tiny_merges import kept_and_read, score
from voxstrata.backbone.attention import Attention, set_attention
from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.encoder import build_backbone, load_backbone
from voxstrata.backbone.families import registry
from voxstrata.backbone.families.family import Convolution, Family, FrontEnd, Window
from voxstrata.backbone.groups import group_sizes
from voxstrata.backbone.layouts import Layout, rules
from voxstrata.errors import CheckpointError
from voxstrata.methods.adaltm.lean.front import Front
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.task_vector import TaskVector
from whisper_by_hand import clips, distance, group_of, whisper

PACKAGE = Path(voxstrata.__file__).parent
LENGTHS = (8000, 5203, 6720)


class ConformerFamily(Family):
    """w2v-BERT 2.0: filter banks, two columns a frame, conformer layers with relative positions."""

    title = "w2v-BERT"
    layouts = (
        Layout(
            "transformers",
            "encoder.layers.0.self_attn.linear_q.weight",
            heads=rules((r"^lm_head\.", "CTC head")),
        ),
    )
    parts = ("feature_projection.", "encoder.", "masked_spec_embed")
    adapted = r"encoder\.layers\.\d+\.(self_attn|ffn1|ffn2|conv_module)\.|feature_projection\."
    front_end_parts = ()
    optional = ("masked_spec_embed",)
    forced: ClassVar[Mapping[str, Any]] = {"layerdrop": 0.0, "apply_spec_augment": False}

    def accepts(self, config: PretrainedConfig) -> bool:
        return config.model_type == "wav2vec2-bert"

    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        return Wav2Vec2BertModel(copy.deepcopy(config)).float()

    def prepare(self, model: PreTrainedModel, attention: Attention) -> None:
        set_attention(model, attention)

    def front_end(self, config: PretrainedConfig) -> FrontEnd:
        return FrontEnd((Convolution(80, 400, 160), Convolution(config.feature_projection_input_dim, 2, 2)))

    def features(
        self,
        model: PreTrainedModel,
        waveforms: Tensor,
        counts: Sequence[int],
        *,
        window: Window = "clip",
        alone: bool = False,
    ) -> Tensor:
        rows = [filter_banks(clip[:count]) for clip, count in zip(waveforms, counts, strict=True)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True).mT
        return padded.to(model.feature_projection.projection.weight.dtype)

    def states(
        self,
        model: PreTrainedModel,
        features: Tensor,
        lengths: Tensor,
        *,
        window: Window = "clip",
        known: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        hidden = known[-1] if known else self.layer_zero(model, features)
        frames = self.front_end(model.config).frames(lengths)
        inside = torch.arange(hidden.shape[1]) < frames.unsqueeze(1)
        mask = torch.zeros(inside.shape, dtype=hidden.dtype)
        mask = mask.masked_fill(~inside, torch.finfo(hidden.dtype).min)[:, None, None, :]
        states = list(known)
        for layer in list(model.encoder.layers)[len(known) :]:
            hidden = layer(hidden, attention_mask=mask, conv_attention_mask=inside)
            states.append(hidden)
        return tuple(states)

    def layer_zero(self, model: PreTrainedModel, features: Tensor) -> Tensor:
        projected: Tensor = model.feature_projection(features.mT)[0]
        return projected

    def final_norm(self, model: PreTrainedModel) -> None:
        return None

    def normalizes(self, config: PretrainedConfig) -> bool:
        return False

    def preprocessor(self, config: PretrainedConfig, *, normalize: bool) -> dict[str, Any]:
        return {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "stride": 2}

    def behind_layers(self, config: PretrainedConfig) -> tuple[str, ...]:
        return ("masked_spec_embed",)


def filter_banks(clip: Tensor) -> Tensor:
    """[T, 160] of one clip by transformers' own extractor."""
    extractor = SeamlessM4TFeatureExtractor()
    found = extractor(clip.float().numpy(), sampling_rate=16_000, pad_to_multiple_of=None)
    return torch.from_numpy(found["input_features"][0]).float()


def config(**more: object) -> Wav2Vec2BertConfig:
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    return Wav2Vec2BertConfig(**{**sizes, "vocab_size": 10, "conv_depthwise_kernel_size": 5, **more})


def shift(model: nn.Module, only: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=generator)
            if only in name:
                parameter += noise


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> ConformerFamily:
    """The family in its place; nothing else is told of it."""
    family = ConformerFamily()
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, family))
    return family


@pytest.fixture
def folder(registered: ConformerFamily, tmp_path: Path) -> Path:
    """A base and two experts under CTC heads, saved by transformers."""
    torch.manual_seed(0)
    base = Wav2Vec2BertForCTC(config(initializer_range=0.2))
    base.save_pretrained(tmp_path / "base")
    for seed, (name, only) in enumerate((("asr", ""), ("ser", "encoder.layers.2."))):
        expert = copy.deepcopy(base)
        shift(expert, only, seed)
        expert.save_pretrained(tmp_path / name)
    return tmp_path


def own_states(model: PreTrainedModel, clip: Tensor) -> tuple[Tensor, ...]:
    """The outputs of all layers [1, T, D] of transformers' model for a clip."""
    mel = filter_banks(clip)[None].to(model.dtype)
    states: tuple[Tensor, ...] = model(mel, output_hidden_states=True).hidden_states[1:]
    return states


def test_without_its_name_in_the_registry_it_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'wav2vec2-bert' is no speech encoder.*whisper, wavlm"):
        build_backbone(config(), seed=0)


@pytest.mark.parametrize("attention", ["fast", "reference"])
def test_states_are_transformers_own_alone_and_in_a_batch(folder: Path, attention: Attention) -> None:
    plain = Wav2Vec2BertModel.from_pretrained(folder / "base").eval()
    encoder = load_backbone(folder / "base", attention=attention)
    waveforms, lengths = clips(LENGTHS)
    states = encoder(waveforms, lengths)
    assert states.lengths.tolist() == [24, 15, 20] and encoder.num_layers == 3
    for row, count in enumerate(lengths.tolist()):
        for ours, theirs in zip(states.layers, own_states(plain, waveforms[row, :count]), strict=True):
            assert distance(ours[row, : int(states.lengths[row])], theirs[0]) < 1e-5
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in plain.encoder.layers]
    outside = sum(p.numel() for p in plain.parameters()) - sum(sizes)
    assert list(group_sizes(encoder.weights())) == [outside, *sizes]


def test_task_vectors_are_taken_from_whole_models_and_adapters(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    base = load_backbone(folder / "base")
    vector = TaskVector.between(base, folder / "ser")
    assert vector.zero_groups() == (0, 1, 2)
    assert vector.left_out == dict.fromkeys(("lm_head.bias", "lm_head.weight"), "CTC head")
    options = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["linear_q", "output_dense"])
    adapted = peft.get_peft_model(Wav2Vec2BertForCTC.from_pretrained(folder / "base"), options)
    shift(adapted, "lora_", 3)
    adapted.save_pretrained(folder / "adapter")
    assert isinstance(open_checkpoint(folder / "adapter").family, ConformerFamily)
    vector = TaskVector.between(base, folder / "adapter")
    merged = adapted.merge_and_unload().wav2vec2_bert.state_dict()
    for name, weight in base.weights().items():
        torch.testing.assert_close(weight + vector.deltas[name], merged[name], rtol=1e-5, atol=1e-6)
    # An encoder that was copied has a copy of its family.
    copied = TaskVector.between(copy.deepcopy(base), folder / "adapter")
    assert all(torch.equal(delta, vector.deltas[name]) for name, delta in copied.deltas.items())


@pytest.mark.parametrize("how", [{}, {"gradient_checkpointing": True}, {"engine": "plain"}])
def test_merged_states_and_gradients_are_those_of_float64(folder: Path, how: dict[str, Any]) -> None:
    base = load_backbone(folder / "base")
    vectors = {name: TaskVector.between(base, folder / name) for name in ("asr", "ser")}
    merged = MergedBackbone(base, vectors, **how)
    with torch.no_grad():
        merged.coefficients.copy_(torch.linspace(-0.4, 1.3, 8).view(4, 2))
    waveforms, lengths = clips(LENGTHS)
    states = merged(waveforms, lengths)
    score(states.layers, states.lengths).backward()

    exact, model = torch.zeros(4, 2, dtype=torch.float64), copy.deepcopy(base.model).double()
    changed = dict(model.named_parameters())
    for name, parameter in changed.items():
        for k, vector in enumerate(vectors.values()):
            coefficient = merged.coefficients[group_of(name), k].item()
            parameter.data += coefficient * vector.deltas[name].double()
    loss = torch.zeros((), dtype=torch.float64)
    for row, count in enumerate(lengths.tolist()):
        alone = own_states(model.requires_grad_(True), waveforms[row, :count])
        for ours, theirs in zip(states.layers, alone, strict=True):
            assert distance(ours[row, : theirs.shape[1]], theirs[0].float()) < 1e-5
        loss = loss + (1 + row) * score(alone, torch.tensor([alone[0].shape[1]]))
    loss.backward()
    for name, parameter in changed.items():
        for k, vector in enumerate(vectors.values()):
            if parameter.grad is not None:
                exact[group_of(name), k] += (parameter.grad * vector.deltas[name].double()).sum()
    assert merged.coefficients.grad is not None
    assert distance(merged.coefficients.grad.double(), exact) < 1e-5 < exact[:, 0].abs().min()


@pytest.mark.parametrize("layers", [0, 2])
def test_fronts_are_kept(folder: Path, layers: int) -> None:
    base = load_backbone(folder / "base")
    merged = MergedBackbone(base, {"ser": TaskVector.between(base, folder / "ser")})
    assert merged.fixed_layers == 2
    waveforms, lengths = clips(LENGTHS)
    expected = merged(waveforms, lengths)
    states = merged(waveforms, lengths, kept_and_read(Front(merged, layers), waveforms, lengths))
    for ours, theirs in zip(states.layers, expected.layers, strict=True):
        assert distance(ours[expected.mask()], theirs[expected.mask()]) < 1e-5


def test_an_export_opens_in_plain_transformers_and_here(folder: Path, tmp_path: Path) -> None:
    base = load_backbone(folder / "base")
    vector = TaskVector.between(base, folder / "asr")
    MergedBackbone(base, {"asr": vector}, init=0.7).export(tmp_path / "out")
    plain, told = Wav2Vec2BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    for name, tensor in load_backbone(tmp_path / "out").weights().items():
        exact = base.weights()[name].double() + torch.tensor(0.7).double() * vector.deltas[name].double()
        assert torch.equal(tensor, exact.float()) and torch.equal(plain.state_dict()[name], tensor)


def test_other_families_are_told_apart_as_before(folder: Path, tmp_path: Path) -> None:
    whisper().save_pretrained(tmp_path / "whisper")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    build_backbone(WavLMConfig(**sizes, conv_dim=[16] * 7), seed=0).save(tmp_path / "wavlm")
    found = {name: open_checkpoint(tmp_path / name).family.title for name in ("whisper", "wavlm", "base")}
    titles = [family.title for family in registry.FAMILIES]
    assert found == dict(zip(("whisper", "wavlm", "base"), titles, strict=True))


def test_nothing_above_the_families_names_one() -> None:
    """Of the families themselves only the registry knows."""
    named = {"voxstrata.backbone.families.whisper", "voxstrata.backbone.families.wav2vec2"}
    rooms = [PACKAGE / room for room in ("backbone", "merging", "fusion", "heads")]
    found = []
    for path in (path for room in rooms for path in room.rglob("*.py") if path.parent.name != "families"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        found += [f"{path.name} imports {module}" for module in sorted(named & imported)]
    assert not found
    assert any(path.name == "encoder.py" for path in rooms[0].iterdir())
