"""A pretrained language model: a tiny random Llama in a folder, as a user would name one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from voxstrata.backbone.encoder import load_backbone
from voxstrata.errors import CheckpointError, LabelError
from voxstrata.heads.task import Task
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.methods.harmonifuse.lm.pretrained import build_lm, load_pretrained
from voxstrata.methods.harmonifuse.options import HarmoniFuseOptions, LayerFusionOptions, LMOptions
from voxstrata.methods.harmonifuse.system import HarmoniFuse
from voxstrata.vocabulary import Vocabulary


def save_tokenizer(folder, *, eos: str | None = "</s>") -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    letters = ["<unk>", "</s>", " ", *"abcdefgh"]
    rules = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rules.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>", eos_token=eos)
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    """A tiny random Llama with its tokenizer, as a user would name one."""
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_a_pretrained_model_speaks_as_it_did_and_trains_its_adapters_alone(llama_folder):
    pytest.importorskip("peft")
    model, tokenizer = load_pretrained(LMOptions(pretrained=str(llama_folder), rank=4), seed=0)
    whole = LlamaForCausalLM.from_pretrained(llama_folder).eval()
    tokens = torch.tensor([tokenizer.encode("bad cafe")])
    states = model.eval()(model.embed(tokens))
    torch.testing.assert_close(model.output(states[-1]), whole(tokens).logits, atol=1e-5, rtol=1e-5)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert {name.split(".layers.")[1][0] for name in trained} == {"0", "1", "2"}
    again, _ = load_pretrained(LMOptions(pretrained=str(llama_folder), rank=4), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model(model.embed(tokens))[-1].square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for n, p in model.named_parameters())


def test_without_adapters_nothing_of_a_pretrained_model_is_trained(llama_folder):
    model, _ = load_pretrained(LMOptions(pretrained=str(llama_folder), rank=0), seed=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_pretrained_model_learns_in_the_system(llama_folder, encoder_folder, emotion_batch):
    pytest.importorskip("peft")
    options = HarmoniFuseOptions(lm=LMOptions(pretrained=str(llama_folder), rank=4, adapter_dropout=0.0))
    model, tokenizer = build_lm(options, Vocabulary(("x",)), seed=0)
    torch.manual_seed(0)
    tasks = (Task("asr"), Task("ser", LabelSet(("anger", "neutral", "sadness"))))
    system = HarmoniFuse(load_backbone(encoder_folder), model, tokenizer, tasks, options)
    batches = [replace(emotion_batch, task=task, tokens=emotion_batch.tokens + 3) for task in system.tasks]
    groups = {group.name: group for group in system.parameter_groups()}
    assert groups.keys() == {"new", "adapters", "fusion"} and groups["adapters"].lr == 2e-4
    own = {id(parameter) for group in groups.values() for parameter in group.parameters}
    assert own == {id(p) for n, p in system.named_parameters() if p.requires_grad}
    assert not any(name.startswith("heads.tokens") for name, _ in system.named_parameters())
    alpha = system.eval().prompt_state(emotion_batch, "ser").alpha[0, 0].tolist()
    assert alpha == pytest.approx([0.0066, 0.0066, 0.9867], abs=1e-3)
    adam = torch.optim.AdamW([p for group in groups.values() for p in group.parameters], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = sum(system.train().loss(batch) for batch in batches)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    rows = list(predict(system, [replace(emotion_batch, task=None)]))
    assert all(set(row.transcript) <= set(" abcdefgh") for row in rows) and rows[0].emotion


def test_a_pretrained_tokenizer_writes_and_reads(llama_folder):
    _, tokenizer = load_pretrained(LMOptions(pretrained=str(llama_folder), rank=0), seed=0)
    assert (tokenizer.eos, tokenizer.size) == (1, 11)
    assert tokenizer.decode(tokenizer.encode("bad cafe")) == "bad cafe"
    with pytest.raises(LabelError, match="does not know"):
        tokenizer.encode("bad zoo")


def test_a_tokenizer_without_an_end_token_is_refused(llama_folder, tmp_path):
    for file in llama_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_tokenizer(tmp_path, eos=None)
    with pytest.raises(CheckpointError, match="no end token"):
        load_pretrained(LMOptions(pretrained=str(tmp_path)), seed=0)


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_LIKE = SIZES | {"intermediate_size": 24, "num_key_value_heads": 2}


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    LlamaForCausalLM(LlamaConfig(vocab_size=5, **LLAMA_LIKE)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"11 tokens and the model 5; they do not belong together$"):
        load_pretrained(LMOptions(pretrained=str(tmp_path)), seed=0)


def test_a_model_without_a_final_norm_to_be_found_names_the_key_to_set(tmp_path):
    OPTForCausalLM(OPTConfig(vocab_size=11, ffn_dim=24, word_embed_proj_dim=16, **SIZES)).save_pretrained(
        tmp_path
    )
    save_tokenizer(tmp_path)
    options = HarmoniFuseOptions(lm=LMOptions(pretrained=str(tmp_path), rank=0))
    with pytest.raises(
        CheckpointError, match=r"OPTModel has no final norm.*layer_fusion\.norm=plain"
    ) as told:
        build_lm(options, Vocabulary(("x",)), seed=0)
    assert "\n" not in str(told.value)
    plain = options.but(layer_fusion=LayerFusionOptions(norm="plain"))
    model, tokenizer = build_lm(plain, Vocabulary(("x",)), seed=0)
    states = model.eval()(model.embed(torch.tensor([tokenizer.encode("bad")])))
    assert [tuple(state.shape) for state in states] == [(1, 3, 16)] * 2


@pytest.mark.parametrize(
    ("kind", "config", "key", "neutral"),
    [
        (CohereForCausalLM, CohereConfig, "logit_scale", 1.0),
        (GraniteForCausalLM, GraniteConfig, "logits_scaling", 1.0),
        (Gemma2ForCausalLM, Gemma2Config, "final_logit_softcapping", None),
    ],
)
def test_a_model_that_changes_its_logits_behind_the_linear_map_is_refused(
    kind, config, key, neutral, tmp_path
):
    special = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    sizes = LLAMA_LIKE | {"vocab_size": 11} | special
    sizes |= {"head_dim": 8} if config is Gemma2Config else {}
    for value in (4.0, neutral):
        kind(config(**sizes, **{key: value})).save_pretrained(tmp_path)
        save_tokenizer(tmp_path)
        if value == 4.0:
            with pytest.raises(CheckpointError, match=f"has {key} 4.0 behind its linear map") as told:
                load_pretrained(LMOptions(pretrained=str(tmp_path), rank=0), seed=0)
            assert "\n" not in str(told.value)
    model, tokenizer = load_pretrained(LMOptions(pretrained=str(tmp_path), rank=0), seed=0)
    whole = kind.from_pretrained(tmp_path).eval()
    tokens = torch.tensor([tokenizer.encode("bad cafe")])
    found = model.output(model.eval()(model.embed(tokens))[-1])
    torch.testing.assert_close(found, whole(tokens).logits, atol=1e-5, rtol=1e-5)


def test_what_is_no_language_model_is_refused_in_one_line(tmp_path, encoder_folder):
    for folder in (tmp_path, encoder_folder):
        with pytest.raises(CheckpointError, match="cannot load the language model") as told:
            load_pretrained(LMOptions(pretrained=str(folder)), seed=0)
        assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="rank"):
        LMOptions(pretrained="x", rank=-1)


def test_of_a_pretrained_model_a_model_folder_holds_the_adapters_alone(
    llama_folder, encoder_folder, emotion_batch, tmp_path
):
    pytest.importorskip("peft")
    from safetensors.torch import load_file

    from tiny_harmonifuse import ASR, SER, SMALL, build
    from voxstrata.methods.model_folder import load_model, save_model

    system = build(
        load_backbone(encoder_folder),
        (ASR, SER),
        SMALL.but(lm=LMOptions(pretrained=str(llama_folder), rank=2)),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for group in system.parameter_groups():
            for parameter in group.parameters:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_model(system, tmp_path / "model")
    names = [name for name in load_file(tmp_path / "model" / "head.safetensors") if name.startswith("lm.")]
    assert names and all("lora_" in name for name in names)
    loaded = load_model(tmp_path / "model")
    assert list(predict(loaded, [emotion_batch])) == list(predict(system, [emotion_batch]))


def test_a_recipe_names_a_pretrained_model(llama_folder, encoder_folder, tmp_path):
    pytest.importorskip("peft")
    from toy_tasks import recipe, two_corpora
    from voxstrata.experiments.run import execute
    from voxstrata.inference.recognizer import Recognizer
    from voxstrata.runs import RunFolder

    corpora = two_corpora(tmp_path)
    lm = {"pretrained": str(llama_folder), "rank": 2}
    run = execute(recipe(encoder_folder, corpora, lm=lm, training={"steps": 3}), RunFolder(tmp_path / "run"))
    heard = Recognizer.load(run.path)(tmp_path / "words" / "00.wav")
    assert heard.emotion is not None and heard.transcript is not None
