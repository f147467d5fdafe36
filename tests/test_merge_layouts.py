"""Merged files of every kind: Whisper with its decoder, shards, heads, adapters, files of other toolkits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    HubertForCTC,
    Wav2Vec2ForCTC,
    WavLMForCTC,
)

from merged_files import WEIGHTS, by_hand, merged, moved, request, same, tensors
from test_whisper_layouts import DIMS, openai_names, whole_state
from tiny_merges import KINDS, tiny
from tiny_whisper import save_whisper
from voxstrata.backbone.encoder import build_backbone
from voxstrata.errors import VoxstrataError
from voxstrata.merging.files import merge_request
from voxstrata.merging.plan import examine
from voxstrata.merging.request import Expert, MergeRequest
from whisper_by_hand import whisper

CTC = {"wavlm": WavLMForCTC, "hubert": HubertForCTC, "wav2vec2": Wav2Vec2ForCTC}


@pytest.fixture(scope="module")
def whisper_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "base")


@pytest.fixture(scope="module")
def whisper_expert(whisper_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper") / "expert"
    table = {
        name: t
        for name, t in tensors(whisper_base).items()
        if name.endswith("encoder.embed_positions.weight")
    }
    return moved(whisper_base, folder, 1, **table)


@pytest.mark.parametrize(("kind", "stable", "norm"), KINDS)
def test_every_encoder_into_an_expert_with_a_ctc_head(kind, stable, norm, tmp_path):
    build_backbone(tiny(kind, stable, norm), seed=0).save(tmp_path / "base")
    expert = CTC[kind](tiny(kind, stable, norm, vocab_size=30))
    base = tensors(tmp_path / "base")
    noise = torch.Generator().manual_seed(0)
    state = {n: t + 0.02 * torch.randn(t.shape, generator=noise) for n, t in base.items()}
    expert.load_state_dict({f"{kind}.{name}": tensor for name, tensor in state.items()}, strict=False)
    expert.save_pretrained(tmp_path / "asr")
    made = merged(tmp_path / "base", tmp_path / "out", asr=(tmp_path / "asr", 0.5))
    assert made.left_out == {"asr": {"lm_head.bias": "CTC head", "lm_head.weight": "CTC head"}}
    same(tensors(tmp_path / "out"), by_hand(base, [state], [(0.5,) * 3]), ulps=1)
    _, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())


def test_heads_of_the_base_are_copied_and_named(tmp_path):
    base = WavLMForCTC(tiny(vocab_size=30))
    base.save_pretrained(tmp_path / "base")
    expert = moved(tmp_path / "base", tmp_path / "asr", 1)
    made = merged(tmp_path / "base", tmp_path / "out", asr=(expert, 0.5))
    found, before = tensors(tmp_path / "out"), tensors(tmp_path / "base")
    assert torch.equal(found["lm_head.weight"], before["lm_head.weight"])
    assert not torch.equal(found["wavlm.encoder.layer_norm.bias"], before["wavlm.encoder.layer_norm.bias"])
    assert "lm_head.weight" in (made.folder / "README.md").read_text()
    _, report = AutoModelForCTC.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())


def test_shards_as_the_base_has_them(tmp_path):
    model = build_backbone(tiny(), seed=0).model
    model.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    expert = moved(tmp_path / "base", tmp_path / "asr", 1)
    merged(tmp_path / "base", tmp_path / "out", asr=(expert, 0.5))
    shards = {file.name for file in (tmp_path / "base").glob("*.safetensors")}
    assert len(shards) > 2 and {file.name for file in (tmp_path / "out").glob("*.safetensors")} == shards
    ours, theirs = (
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("out", "base")
    )
    assert ours["weight_map"] == theirs["weight_map"]
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    same(
        tensors(tmp_path / "out"),
        by_hand(tensors(tmp_path / "base"), [tensors(expert)], [(0.5,) * 3]),
        ulps=1,
    )
    assert not any(AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)[1].values())


def test_older_spelling_of_weight_norm(encoder_folder, tmp_path):
    old = {
        name.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): value
        for name, value in tensors(encoder_folder).items()
    }
    base = moved(encoder_folder, tmp_path / "base", 0)
    save_file(old, base / WEIGHTS, metadata={"format": "pt"})
    expert = moved(encoder_folder, tmp_path / "asr", 1)
    merged(base, tmp_path / "out", asr=(expert, 1))
    found = tensors(tmp_path / "out")
    assert set(found) == set(old)
    same(AutoModel.from_pretrained(tmp_path / "out").state_dict(), tensors(expert))


def test_a_torch_file_as_the_base_and_as_an_expert(encoder_folder, expert_folders, tmp_path):
    for name, source in (("base", encoder_folder), ("asr", expert_folders["asr"])):
        (tmp_path / name).mkdir()
        torch.save(tensors(source), tmp_path / name / "pytorch_model.bin")
        (tmp_path / name / "config.json").write_bytes((source / "config.json").read_bytes())
    merged(tmp_path / "base", tmp_path / "out", asr=(tmp_path / "asr", 0.5))
    wanted = by_hand(tensors(encoder_folder), [tensors(expert_folders["asr"])], [(0.5,) * 3])
    same(tensors(tmp_path / "out"), wanted, ulps=1)


def test_adapters_are_experts(encoder_folder, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModel.from_pretrained(encoder_folder)
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"])
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(tmp_path / "lora")
    base = tensors(encoder_folder)
    merged(encoder_folder, tmp_path / "out", lora=(tmp_path / "lora", 0.5))
    tuned = wrapped.merge_and_unload().state_dict()
    found, wanted = tensors(tmp_path / "out"), by_hand(base, [tuned], [(0.5,) * 3])
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), wanted[name], atol=1e-6)
    changed = {name for name in base if not torch.equal(base[name], found[name])}
    assert changed == {name for name in base if name.endswith(("q_proj.weight", "v_proj.weight"))}
    with pytest.raises(VoxstrataError, match="give the encoder that was adapted as the base"):
        merged(tmp_path / "lora", tmp_path / "no", asr=(encoder_folder, 0.5))


@pytest.mark.parametrize("part", ["encoder", "decoder", "all", None])
def test_whisper_and_its_decoder(whisper_base, whisper_expert, tmp_path, part):
    asked = MergeRequest(
        str(whisper_base), {"asr": Expert(str(whisper_expert), 0.5)}, "task-arithmetic", parts=part
    )
    made = merge_request(asked, tmp_path / "out")
    before, tuned, found = (tensors(folder) for folder in (whisper_base, whisper_expert, tmp_path / "out"))
    assert made.parts == (part or "all")
    for name, weight in before.items():
        inside = made.parts in ("all", "decoder" if ".decoder." in name else "encoder")
        middle = (0.5 * (weight.double() + tuned[name].double())).float() if inside else weight
        torch.testing.assert_close(found[name], middle, rtol=2**-22, atol=1e-9)
    labels = ["0", "1", "2"], ["decoder.0", "decoder.1", "decoder.2"]
    wanted = {"encoder": labels[0], "decoder": labels[1], "all": labels[0] + labels[1]}
    assert list(made.layers) == wanted[made.parts]
    for file in ("generation_config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (whisper_base / file).read_bytes()
    model, report = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(model.proj_out.weight, found["model.decoder.embed_tokens.weight"])


def test_a_coefficient_for_each_layer_of_both_halves(whisper_base, whisper_expert, tmp_path):
    (tmp_path / "c.csv").write_text(
        "layer,coefficient\n"
        + "".join(f"{n},0\n" for n in range(3))
        + "decoder.0,0\ndecoder.1,1\ndecoder.2,0\n"
    )
    merged(whisper_base, tmp_path / "out", asr=(whisper_expert, str(tmp_path / "c.csv")))
    before, tuned, found = (tensors(folder) for folder in (whisper_base, whisper_expert, tmp_path / "out"))
    for name, value in found.items():
        assert torch.equal(value, (tuned if ".decoder.layers.0." in name else before)[name]), name


def test_an_encoder_without_a_decoder_is_merged_into_a_whole_whisper(whisper_base, whisper_expert, tmp_path):
    from voxstrata.backbone.encoder import load_backbone

    load_backbone(whisper_expert).save(tmp_path / "encoder")
    made = merged(whisper_base, tmp_path / "out", asr=(tmp_path / "encoder", 1))
    assert made.parts == "encoder"
    before, tuned, found = (tensors(folder) for folder in (whisper_base, whisper_expert, tmp_path / "out"))
    for name, value in found.items():
        assert torch.equal(value, (before if ".decoder." in name else tuned)[name]), name
    wanted = request(whisper_base, asr=(tmp_path / "encoder", 1))
    faults = examine(MergeRequest(wanted.base, wanted.experts, wanted.method, parts="all")).errors
    assert "holds no decoder" in faults[0].text


def test_a_stored_copy_of_the_tied_output_is_merged_like_it(whisper_base, whisper_expert, tmp_path):
    state = tensors(whisper_base)
    name = "model.decoder.embed_tokens.weight"
    base = moved(whisper_base, tmp_path / "base", 0)
    save_file(state | {"proj_out.weight": state[name].clone()}, base / WEIGHTS, metadata={"format": "pt"})
    merged(base, tmp_path / "out", asr=(whisper_expert, 0.5))
    found = tensors(tmp_path / "out")
    assert torch.equal(found["proj_out.weight"], found[name]) and not torch.equal(found[name], state[name])


def test_files_of_openai_on_both_sides(tmp_path):
    base, expert = (whisper(0, vocab_size=51864, max_target_positions=448) for _ in range(2))
    with torch.no_grad():
        for name, parameter in expert.named_parameters():
            if not name.endswith("encoder.embed_positions.weight"):
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    for name, model in (("base", base), ("asr", expert)):
        (tmp_path / name).mkdir()
        content = {"dims": DIMS, "model_state_dict": openai_names(whole_state(model))}
        torch.save(content, tmp_path / name / "tiny.pt")
    made = merged(tmp_path / "base" / "tiny.pt", tmp_path / "out", asr=(tmp_path / "asr" / "tiny.pt", 1))
    assert made.parts == "all"
    model, report = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    same(model.state_dict(), expert.state_dict())


def test_models_of_the_hub_are_named_by_their_ids(encoder_folder, expert_folders, tmp_path, monkeypatch):
    places = {"me/base": encoder_folder, "me/asr": moved(expert_folders["asr"], tmp_path / "asr", 0)}
    (places["me/asr"] / "README.md").write_text("---\nlicense: mit\nbase_model: me/base\n---\n")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(places[name]))
    monkeypatch.chdir(tmp_path)
    asked = request("me/base", asr=("me/asr", 0.5))
    lines = {(line.about, line.topic): line for line in examine(asked).findings}
    assert (
        lines["asr", "kinship"].text == "names me/base as its base" and lines["asr", "kinship"].level == "ok"
    )
    made = merge_request(asked, tmp_path / "out")
    assert [facts["title"] for facts in made.parents.values()] == ["me/base", "me/asr"]
    assert "- me/base\n- me/asr\n" in (made.folder / "README.md").read_text()


def test_packaged_whisper(tmp_path):
    from voxstrata.backbone.locate import locate

    folder = locate("whisper-tiny.en")
    expert = moved(folder, tmp_path / "asr", 1, scale=0.001)
    made = merged("whisper-tiny.en", tmp_path / "out", asr=(expert, 0.5))
    assert made.parents["base"] | {"sha256": 0} == {
        "path": "whisper-tiny.en",
        "title": "openai/whisper-tiny.en",
        "published": "openai/whisper-tiny.en",
        "licence": "mit",
        "sha256": 0,
    }
    assert (tmp_path / "out" / "LICENSE").read_bytes() == (folder / "LICENSE").read_bytes()
    found, before, tuned = (tensors(place) for place in (tmp_path / "out", folder, expert))
    for name, value in found.items():
        fixed = name.endswith("embed_positions.weight")
        half = before[name] if fixed else ((before[name].double() + tuned[name].double()) / 2).half()
        torch.testing.assert_close(value, half, rtol=2**-9, atol=1e-7)
