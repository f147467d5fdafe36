"""Fisher information and Gram matrices of experts against plain loops in float64, and merges with them."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from typer.testing import CliRunner

from toy_tasks import EMOTIONS, two_corpora
from voxstrata.backbone.encoder import load_backbone
from voxstrata.cli.main import app
from voxstrata.config.head import HeadOptions
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError, CorpusError, RecipeError, VoxstrataError
from voxstrata.heads.ctc import CTCHead
from voxstrata.labels import LabelSet
from voxstrata.merging.statistics import Statistics
from voxstrata.methods.encoder_models import EmotionModel, TranscriptionModel
from voxstrata.methods.model_folder import load_model, save_model
from voxstrata.notebook.merging import merge_files
from voxstrata.vocabulary import Vocabulary

NAME = "encoder.layers.1.feed_forward.output_dense.weight"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return two_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def experts(expert_folders, tmp_path_factory):
    """Model folders of two experts with random heads."""
    folder, found = tmp_path_factory.mktemp("models"), {}
    torch.manual_seed(0)
    ser = EmotionModel(
        load_backbone(expert_folders["ser"]), LabelSet(EMOTIONS), HeadOptions(form="d", normalize_layers=True)
    )
    asr = load_backbone(expert_folders["asr"])
    words = TranscriptionModel(asr, CTCHead(asr.hidden_size, Vocabulary((" ", "a", "b"))))
    for name, model in (("ser", ser), ("asr", words)):
        save_model(model, str(folder / name))
        found[name] = str(folder / name)
    return found


def measured(expert, corpus, out, *arguments):
    done = CliRunner().invoke(
        app, ["merge-statistics", expert, "--corpus", corpus, "--out", str(out), *arguments]
    )
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return load_file(out)


def clips(corpus, split="train"):
    """Samples, emotion and text of each clip, read without the package's batches."""
    for cut in PreparedCorpus.load(corpus).cuts(split):
        wave, _ = soundfile.read(cut.recording.sources[0].source, dtype="float32")
        supervision = cut.supervisions[0]
        # Training audio is rounded to 16 bits (ARCHITECTURE.md).
        yield np.round(wave * 32768) / 32768, supervision.custom.get("emotion"), supervision.text


def losses(name, model, corpus):
    """The loss of each clip in float64, written out."""
    for wave, emotion, text in clips(corpus):
        states = model.encoder(torch.from_numpy(wave)[None].double(), torch.tensor([len(wave)]))
        if name == "ser":
            logits = model.head(model.layer_sum(states.layers), states.mask())
            yield -torch.log_softmax(logits, -1)[0, EMOTIONS.index(emotion)]
        else:
            logits = torch.log_softmax(model.head(states.layers[-1])[0], -1)
            tokens = torch.tensor([1 + (" ", "a", "b").index(letter) for letter in text])
            whole = F.ctc_loss(
                logits, tokens, torch.tensor(len(logits)), torch.tensor(len(tokens)), reduction="sum"
            )
            yield whole / len(tokens)


@pytest.mark.parametrize(("name", "corpus"), [("ser", "feelings"), ("asr", "words")])
def test_fisher_information_is_the_mean_squared_gradient_of_each_clip(
    experts, corpora, tmp_path, name, corpus
):
    found = measured(experts[name], corpora[corpus], tmp_path / "f.safetensors")
    model = load_model(experts[name]).double()
    model.encoder.requires_grad_(True)
    parameters = dict(model.encoder.model.named_parameters())
    expected, count = {key: torch.zeros_like(one) for key, one in parameters.items()}, 0
    for loss in losses(name, model, corpora[corpus]):
        model.zero_grad()
        loss.backward()
        for key, parameter in parameters.items():
            if parameter.grad is not None:
                expected[key] += parameter.grad**2
        count += 1
    assert Statistics.open(tmp_path / "f.safetensors").clips == count > 5
    assert set(found) == set(load_backbone(experts[name]).weights())
    for key, one in found.items():
        wanted = expected[key] / count
        torch.testing.assert_close(one.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()) + 1e-14)
    assert float(found[NAME].max()) > 0


def test_gram_matrices_are_sums_over_all_frames_that_a_layer_gets(experts, corpora, tmp_path):
    found = measured(experts["ser"], corpora["feelings"], tmp_path / "g.safetensors", "--kind", "gram")
    model = load_model(experts["ser"]).double()
    layer = model.encoder.model.encoder.layers[1].feed_forward.output_dense
    got = []
    layer.register_forward_hook(lambda module, inputs, output: got.append(inputs[0][0].numpy()))
    with torch.no_grad():
        [*losses("ser", model, corpora["feelings"])]
    expected = np.zeros((layer.in_features, layer.in_features))
    for states in got:
        for frame in states:
            expected += np.outer(frame, frame)
    np.testing.assert_allclose(found[NAME].numpy(), expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert all(name.endswith(".weight") and one.ndim == 2 for name, one in found.items())


def encoder_of(folder):
    return load_backbone(folder).weights()


def test_merges_use_what_was_measured(encoder_folder, experts, corpora, tmp_path):
    which = {"ser": "feelings", "asr": "words"}
    vectors = {name: (place, 1.0 + (name == "asr")) for name, place in experts.items()}
    fisher = {n: str(tmp_path / f"{n}.fisher.safetensors") for n in experts}
    gram = {n: str(tmp_path / f"{n}.gram.safetensors") for n in experts}
    f = {n: measured(p, corpora[which[n]], fisher[n]) for n, p in experts.items()}
    g = {
        n: measured(p, corpora[which[n]], gram[n], "--kind", "gram", "--limit", "4")
        for n, p in experts.items()
    }
    weights = {name: encoder_of(place) for name, place in experts.items()}
    made = merge_files(encoder_folder, vectors, out=tmp_path / "f", method="fisher", statistics=fisher)
    merged = encoder_of(made.folder)
    share = {"ser": 1 / 3, "asr": 2 / 3}
    for key in (NAME, "encoder.layers.0.final_layer_norm.bias"):
        parts = {n: share[n] * f[n][key].double() for n in share}
        top = sum(parts[n] * weights[n][key].double() for n in share)
        plain = sum(share[n] * weights[n][key].double() for n in share)
        total = sum(parts.values())
        wanted = torch.where(total > 0, top / total, plain)
        torch.testing.assert_close(merged[key].double(), wanted, rtol=1e-6, atol=1e-7)
    made = merge_files(
        encoder_folder, vectors, out=tmp_path / "g", method="regmean", statistics=gram, alpha=0.5
    )
    grams = {n: 0.5 * (one := g[n][NAME].double()) + 0.5 * torch.diag(one.diagonal()) for n in share}
    top = sum(share[n] * weights[n][NAME].double() @ grams[n] for n in share)
    wanted = top @ torch.linalg.pinv(sum(share[n] * grams[n] for n in share))
    torch.testing.assert_close(encoder_of(made.folder)[NAME].double(), wanted, rtol=1e-3, atol=1e-4)
    # The same again from what was written.
    again = CliRunner().invoke(
        app, ["merge", str(tmp_path / "g" / "merge.yaml"), "--out", str(tmp_path / "h")]
    )
    assert again.exit_code == 0, again.output
    assert torch.equal(encoder_of(tmp_path / "h")[NAME], encoder_of(tmp_path / "g")[NAME])


def test_statistics_that_do_not_fit_are_refused_in_one_line(encoder_folder, experts, corpora, tmp_path):
    out, own = tmp_path / "out", tmp_path / "ser.safetensors"
    measured(experts["ser"], corpora["feelings"], own, "--limit", "2")
    both = {name: (place, 1.0) for name, place in experts.items()}
    tries = [
        ("fisher", {}, "merge-statistics --kind fisher"),
        ("fisher", {"ser": own}, "asr has none"),
        ("fisher", {"ser": own, "asr": own}, "measured on other weights than those of asr"),
        ("regmean", {"ser": own, "asr": own}, "merge-statistics --kind gram"),
        ("ties", {"ser": own, "asr": own}, "needs none"),
        ("fisher", {"ser": own, "other": own}, "which is no vector"),
        ("fisher", {"ser": own, "asr": tmp_path / "no.safetensors"}, "no.safetensors"),
        ("fisher", {"ser": own, "asr": experts["asr"] + "/encoder/model.safetensors"}, "holds no statistics"),
    ]
    for method, statistics, said in tries:
        with pytest.raises(VoxstrataError) as caught:
            merge_files(encoder_folder, both, out=out, method=method, statistics=statistics)
        assert said in str(caught.value) and "\n" not in str(caught.value), (method, statistics)
        assert not out.exists()


def test_what_cannot_be_measured_is_refused_in_one_line(experts, corpora, encoder_folder, tmp_path):
    out = tmp_path / "s.safetensors"
    with pytest.raises(CheckpointError, match="holds no model with a head"):
        measured(str(encoder_folder), corpora["feelings"], out)
    with pytest.raises(CheckpointError, match="allowed are fisher, gram"):
        measured(experts["ser"], corpora["feelings"], out, "--kind", "hessian")
    with pytest.raises(CorpusError):
        measured(experts["ser"], corpora["words"], out)
    with pytest.raises(CorpusError, match="there are train, dev, test"):
        measured(experts["ser"], corpora["feelings"], out, "--split", "other")
    out.write_text("something else")
    with pytest.raises(CheckpointError, match="holds no statistics"):
        measured(experts["ser"], corpora["feelings"], out)
    assert out.read_text() == "something else"
    asked = ["merge", "--base", "b", "--vector", "a=b:1", "--statistics", "x"]
    fault = CliRunner().invoke(app, asked).exception
    assert isinstance(fault, RecipeError) and "NAME=FILE" in str(fault)
