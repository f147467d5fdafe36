"""Dry runs at the scale of the paper: a made MSP-Podcast, and headers of WavLM-Large without its weights."""

from __future__ import annotations

import json
import re
import resource
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from voxstrata.backbone.headers import model_shapes
from voxstrata.backbone.locate import locate
from voxstrata.benchmarks.shapes import wavlm_config
from voxstrata.cli.main import app
from voxstrata.corpora.msp_podcast import EMOTIONS, PAPER_CLIPS
from voxstrata.corpora.prepare import prepare
from voxstrata.experiments.dry_run.corpus_checks import check_prepared
from voxstrata.experiments.dry_run.whole_table import dry_run_table
from voxstrata.experiments.tables.corpora import corpus_folder
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.table import read_table_spec
from voxstrata.methods.adaltm.recipe import AdaLTMRecipe
from voxstrata.methods.baselines.multitask import MultitaskRecipe
from voxstrata.recipes.reading import packaged, read_recipe

BASE, SER = "microsoft/wavlm-large", "tiantiaf/wavlm-large-categorical-emotion"
ASR = "patrickvonplaten/wavlm-libri-clean-100h-large"
COUNTS = {"Train": 3, "Development": 1, "Test1": 1, "Test2": 1}
Shapes = Mapping[str, tuple[int, ...]]


def sparse(path: Path, shapes: Shapes) -> None:
    """A safetensors file with a header, and holes in the place of values."""
    head, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * int(np.prod(shape))
        head[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    config = wavlm_config("large")
    return {name: tuple(tensor.shape) for name, tensor in model_shapes(config).items()}


def checkpoints(root: Path, shapes: Shapes) -> None:
    """Base and both published experts in their own layouts, under their names on the hub."""
    sparse(root / BASE / "model.safetensors", shapes)
    wavlm_config("large").save_pretrained(root / BASE)
    voxprofile = {f"backbone_model.{name}": shape for name, shape in shapes.items()}
    head = {"weights": (25,), "model_seq.0.weight": (256, 1024, 1), "emotion_layer.2.weight": (9, 256)}
    sparse(root / SER / "model.safetensors", voxprofile | head)
    (root / SER / "config.json").write_text('{"pretrain_model": "wavlm_large"}')
    ctc = {f"wavlm.{name}": shape for name, shape in shapes.items()} | {"lm_head.weight": (31, 1024)}
    sparse(root / ASR / "model.safetensors", ctc)


def release(root: Path) -> None:
    """A clip of every class and part, more of them in Train; each part has a speaker of its own."""
    rows = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    answers = ["FileName,EmoDetail"]
    for folder in ("Audios", "Labels", "Transcripts"):
        (root / folder).mkdir(parents=True)
    for speaker, (part, count) in enumerate(COUNTS.items()):
        for number in range(count * len(EMOTIONS)):
            name = f"MSP-PODCAST_{speaker:04d}_{number:04d}"
            rows.append(f"{name}.wav,{list(EMOTIONS)[number % 8]},4,4,4,{speaker},Male,{part}")
            answers.append(f"{name}.wav,WORKER1; Happy; A:4.0; V:4.0; D:4.0;")
            noise = np.random.default_rng([speaker, number]).normal(size=1600 * (2 + number % 3)) * 0.1
            soundfile.write(root / "Audios" / f"{name}.wav", noise, 16_000)
            (root / "Transcripts" / f"{name}.txt").write_text(f"say {'abcd'[speaker]}")
    (root / "Labels" / "labels_consensus.csv").write_text("\n".join(rows) + "\n")
    (root / "Labels" / "labels_detailed.csv").write_text("\n".join(answers) + "\n")


@pytest.fixture
def place(tmp_path: Path, shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with checkpoints and an unpacked release; nothing is prepared."""
    checkpoints(tmp_path, shapes)
    release(tmp_path / "corpora" / "MSP-Podcast")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("VOXSTRATA_DATA", raising=False)
    return tmp_path


def prepared(place: Path) -> Path:
    """The corpus of the table, prepared where `reproduce` looks for it."""
    spec = read_table_spec("adaltm-paper").scale("paper").corpora["msp"]
    folder = corpus_folder("msp", spec, Path("runs") / "corpora", Path("corpora"))
    prepare("msp-podcast", place / "corpora" / "MSP-Podcast", folder, options={"keep": "paper"})
    return folder


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def table(*words: str) -> Result:
    return command("reproduce", "adaltm-paper", "--scale", "paper", "--data", "corpora", "--dry-run", *words)


def test_a_table_without_faults_is_told_in_whole_and_exits_with_0(place: Path) -> None:
    prepared(place)
    done = table("--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert not found["faults"]
    (corpus,) = found["corpora"]
    assert corpus["clips"] == {"train": 24, "dev": 8, "test": 16}
    assert corpus["paper"] == PAPER_CLIPS == {"train": 89_752, "dev": 25_232, "test": 46_366}
    runs = {run["name"]: run for run in found["runs"]}
    rows = {row.run for row in read_table_spec("adaltm-paper").rows}
    assert {name.partition(".")[0] for name in runs} == rows and len(runs) == len(rows) + 4 * 5 + 1
    assert list(runs).index("asr-expert") < list(runs).index("dual")
    assert all(run["clips"] == {"train": 24, "dev": 8, "test": 16} for run in runs.values())
    assert runs["dual"]["costs"]["steps"] == 100
    cached = {name for name, run in runs.items() if (run["costs"] or {}).get("cached")}
    assert cached == {"frozen", "static", "ser-alone", "late-fusion"}
    assert runs["dual"]["costs"]["one_gpu_s"] > 20 * runs["static"]["costs"]["one_gpu_s"]
    unverified = " ".join(runs["dual"]["notes"])
    assert f"ser {SER}: given without a list of its training clips" in unverified
    assert f"ser {SER} does not name its base" in unverified
    assert not list((place / "runs").glob("dual*")), "nothing was started"
    told = table().stdout
    assert "train 24 (paper 89,752, -89,728), dev 8 (paper 25,232, -25,224)" in told
    assert "assumed: one GPU sustains 10 TFLOP/s in fp32 and 60 in bf16" in told and "no fault found" in told


def test_weights_of_large_files_are_not_read(place: Path) -> None:
    """The three files stand for 3.8 GB; what the process holds grows by far less."""
    prepared(place)
    sizes = [path.stat().st_size for path in place.rglob("model.safetensors")]
    assert len(sizes) == 3 and sum(sizes) > 3.7e9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert table("--json").exit_code == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_an_unprepared_corpus_is_a_fault_with_its_command_and_its_own_counts(place: Path) -> None:
    """No audio is decoded: the files may hold anything."""
    for file in (place / "corpora" / "MSP-Podcast" / "Audios").iterdir():
        file.rename(file.with_suffix(".kept"))
        file.write_bytes(b"no audio")
    done = table("--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    (fault,) = found["faults"]
    how = fault.split("prepare it: ")[1]
    assert how.startswith("voxstrata corpus prepare msp-podcast corpora/MSP-Podcast runs/corpora/msp-")
    (corpus,) = found["corpora"]
    assert corpus["clips"] == {"train": 24, "dev": 8, "test": 16} and corpus["paper"] == PAPER_CLIPS
    assert (corpus["folder"], corpus["prepared"]) == ("corpora/MSP-Podcast", False)
    costs = {run["name"]: run["costs"] for run in found["runs"]}
    assert costs["dual"]["steps"] == 100 * 1
    assert not any("the paper's counts are taken" in line for line in found["assumptions"])
    told = table().stdout
    assert "corpus msp-podcast (corpora/MSP-Podcast): train 24 (paper 89,752, -89,728), dev 8" in told
    assert "  note: not prepared: counted from labels and transcripts" in told
    for file in (place / "corpora" / "MSP-Podcast" / "Audios").glob("*.kept"):
        file.rename(file.with_suffix(".wav"))
    assert command(*how.split()[1:]).exit_code == 0
    assert table().exit_code == 0


def test_a_release_counts_what_its_preparation_will_keep(place: Path) -> None:
    root = place / "corpora" / "MSP-Podcast"
    labels = root / "Labels" / "labels_consensus.csv"
    lines = labels.read_text().splitlines()
    lines[1] = lines[1].replace(".wav,A,", ".wav,X,")
    labels.write_text("\n".join(lines) + "\n")
    (root / "Transcripts" / "MSP-PODCAST_0002_0001.txt").write_text("[inaudible 00:00:01]")
    (root / "Audios" / "MSP-PODCAST_0001_0002.wav").unlink()
    (corpus,) = json.loads(table("--json").stdout)["corpora"]
    assert corpus["clips"] == {"train": 23, "dev": 8, "test": 15}
    assert corpus["missing"].endswith("MSP-PODCAST_0001_0002.wav")
    notes = " ".join(corpus["notes"])
    assert "audio files are not there: " in notes and "train -89,729, dev -25,224, test -46,351" in notes


def test_costs_are_the_papers_where_there_is_no_release_or_a_broken_one(place: Path) -> None:
    labels = place / "corpora" / "MSP-Podcast" / "Labels" / "labels_consensus.csv"
    labels.write_text("FileName,EmoClass\n")
    broken = json.loads(table("--json").stdout)
    assert len(broken["faults"]) == 2 and "corpus msp is not prepared yet" in broken["faults"][0]
    assert "corpus msp cannot be counted: " in broken["faults"][1] and "SpkrID" in broken["faults"][1]
    shutil.rmtree(labels.parents[1])
    absent = json.loads(table("--json").stdout)
    (fault,) = absent["faults"]
    assert "corpora/MSP-Podcast is not there" in fault
    for found in (broken, absent):
        assert not found["corpora"]
        assert any("the paper's counts are taken" in line for line in found["assumptions"])
        costs = {run["name"]: run["costs"] for run in found["runs"]}
        assert costs["dual"]["steps"] == 100 * -(-89_752 // 32)
        # 100 times 506,000 s of train at 3 x 185 GFLOP a second and 142,000 s of dev at 185, by 60 TFLOP/s.
        assert costs["dual"]["one_gpu_s"] / 3600 == pytest.approx(29, abs=2)


def test_a_prepared_corpus_unlike_the_papers_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(place)
    less = "not as many clips as the paper's of release 1.12: train -89,728, dev -25,224, test -46,350"
    assert check_prepared(str(folder)).notes == (less,)
    assert f"  note: {less}" in table().stdout
    about = json.loads((folder / "corpus.json").read_text())
    assert about["options"]["keep"] == "paper"
    about["options"] |= {"keep": "all", "test": "test1"}
    (folder / "corpus.json").write_text(json.dumps(about))
    keep, test, _ = check_prepared(str(folder)).notes
    assert keep.startswith("keep=all, while the paper's") and keep.endswith("--option keep=paper")
    assert test.startswith("test=test1, while the paper's")
    counts = {"train": 24, "dev": 8, "test": 16}
    monkeypatch.setattr("voxstrata.experiments.dry_run.corpus_checks.PAPER_CLIPS", counts)
    about["options"] |= {"keep": "paper", "test": "pooled"}
    (folder / "corpus.json").write_text(json.dumps(about))
    assert check_prepared(str(folder)).notes == ()


def test_all_faults_come_at_once(place: Path, shapes: Shapes) -> None:
    folder = prepared(place)
    missing = place / "corpora" / "MSP-Podcast" / "Audios" / "MSP-PODCAST_0000_0003.wav"
    missing.unlink()
    wrong = {f"backbone_model.{name}": shape for name, shape in shapes.items()}
    wrong["backbone_model.encoder.layers.7.feed_forward.output_dense.weight"] = (1024, 2048)
    sparse(place / SER / "model.safetensors", wrong)
    shallow = {f"wavlm.{name}": shape for name, shape in shapes.items() if ".layers.23." not in name}
    sparse(place / ASR / "model.safetensors", shallow)
    done = table()
    assert done.exit_code == 2 and "3 faults" in done.stdout
    faults = [line for line in done.stderr.splitlines() if line.startswith("fault: ")]
    assert any(f"{folder}: audio files are not there: {missing}" in line for line in faults)
    assert any("output_dense.weight (1024, 2048) for (1024, 4096)" in line for line in faults)
    assert any("has 23 transformer layers, but the model has 24" in line for line in faults)
    assert len(faults) == 3


def test_what_is_not_here_is_not_downloaded_and_what_is_broken_is_named(place: Path) -> None:
    (place / BASE / "model.safetensors").unlink()
    shutil.rmtree(place / SER)
    (place / ASR / "model.safetensors").write_bytes(b"<!doctype html>")
    faults = json.loads(table("--json").stdout)["faults"]
    assert len(faults) == 4 and "corpus msp is not prepared yet" in faults[0]
    assert any(f"{BASE} holds no weight file" in fault for fault in faults)
    assert any(f"fetch it: hf download {SER}" in fault for fault in faults)
    assert any(f"cannot read {ASR}/model.safetensors as safetensors" in fault for fault in faults)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.layers.0.attention.q_proj.weight": (4, 4)}, "has other shapes than the model"),
        ({"encoder.layers.0.attention.q_proj.weight": None}, "no speech encoder"),
        ({"encoder.layers.3.final_layer_norm.bias": None}, "lacks 1 tensor"),
        ({"encoder.layers.3.extra.bias": (7,)}, "holds 1 tensor (encoder.layers.3.extra.bias)"),
    ],
)
def test_a_base_that_is_not_what_its_configuration_says_is_a_fault(
    place: Path, shapes: Shapes, change: dict[str, Any], message: str
) -> None:
    changed = {name: shape for name, shape in {**shapes, **change}.items() if shape is not None}
    sparse(place / BASE / "model.safetensors", changed)
    code, found = train(place, "paper/frozen")
    assert code == 2 and len(found["faults"]) == 1 and message in found["faults"][0]


def train(place: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = command("train", *words, f"data.corpora=[{{path: {prepared(place)}}}]", "--dry-run", "--json")
    return done.exit_code, json.loads(done.stdout)


def test_an_encoder_that_a_table_pretrains_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The label-free twin is of the same shapes and does not come with the package.
    shutil.copytree(locate("wavlm-tiny"), tmp_path / "build" / "weights" / "wavlm-tiny-ssl")
    chosen = Chosen(read_table_spec("wavlm-tiny"), "wavlm-tiny", "real")
    found = dry_run_table(chosen, out=tmp_path, data=None)
    assert found.faults and all(fault.startswith("corpus ") for fault in found.faults)
    told = {line.split(" (")[0].partition("$run.")[2]: line for line in found.encoders if "$run." in line}
    assert told.keys() == {"untrained", "hubert", "hubert-untrained"}
    assert "wavlm, 6 layers of 128, 1,568,120 parameters; still to be pre-trained" in told["untrained"]
    assert "hubert, 6 layers of 128" in told["hubert"]


def test_one_recipe_is_checked_alone(place: Path) -> None:
    code, found = train(place, "paper/out-of-domain")
    assert code == 0, found["faults"]
    assert [line.split(":")[0] for line in found["encoders"]] == [BASE, ASR, SER]
    assert "lm_head.weight (CTC head)" in found["encoders"][1]
    code, found = train(place, "paper/dual")
    assert code == 2 and "runs/asr-expert" in found["faults"][0]
    slow, quick = (train(place, "paper/frozen", "--tflops", speed)[1] for speed in ("1", "100"))
    ratio = slow["runs"][0]["costs"]["one_gpu_s"] / quick["runs"][0]["costs"]["one_gpu_s"]
    assert ratio == pytest.approx(100)
    costs = slow["runs"][0]["costs"]
    assert costs["cpu_s"] > 0
    printed = command("train", "paper/frozen", f"data.corpora={prepared(place)}", "--dry-run").output
    assert "this machine's CPU: at least" in printed
    assert not (place / "runs" / "frozen").exists()


def test_labels_that_the_corpus_has_not_are_told(place: Path) -> None:
    code, found = train(place, "paper/frozen", "data.labels=[anger, contempt, disgust, fear]")
    assert code == 2 and "happiness" in found["faults"][0]
    names = [*EMOTIONS.values(), "calm"]
    code, found = train(place, "paper/frozen", f"data.labels=[{', '.join(names)}]")
    assert code == 0 and any("no training clip is calm" in note for note in found["runs"][0]["notes"])


def test_an_expert_of_another_base_is_told(place: Path) -> None:
    expert = place / "runs" / "asr-expert"
    (place / SER / "config.json").write_text('{"_name_or_path": "microsoft/wavlm-base"}')
    (expert / "model" / "encoder").mkdir(parents=True)
    (place / ASR / "model.safetensors").rename(expert / "model" / "encoder" / "model.safetensors")
    (expert / "recipe.yaml").write_text("base: microsoft/wavlm-large-other\n")
    wavlm_config("large").save_pretrained(expert / "model" / "encoder")
    _, found = train(place, "paper/dual")
    notes = " ".join(found["runs"][0]["notes"])
    assert "asr runs/asr-expert says it comes from microsoft/wavlm-large-other" in notes
    assert f"ser {SER} says it comes from microsoft/wavlm-base, the base here is {BASE}" in notes


def test_a_leak_is_a_fault_before_training(place: Path) -> None:
    from voxstrata.experiments.leaks.training_clips import ClipTrace, TrainingClips, Use

    heard = ClipTrace("x", "msp-podcast-2", "", None)
    TrainingClips({Use("fine-tuning", "ser"): frozenset([heard])}).write(
        place / SER / "training_clips.jsonl.gz"
    )
    code, found = train(place, "paper/ser-only")
    assert code == 2 and "allow_leaks=[fine-tuning/test/speaker]" in found["faults"][0]
    assert train(place, "paper/ser-only", "allow_leaks=[fine-tuning/test/speaker]")[0] == 0


def test_options_of_a_dry_run_need_it(place: Path) -> None:
    for words in (("--tflops", "3"),):
        done = command("train", "paper/frozen", *words)
        assert "needs --dry-run" in str(done.exception)
    assert "positive" in str(command("train", "paper/frozen", "--dry-run", "--tflops", "0").exception)


def test_recipes_of_the_paper_share_all_but_what_a_row_is_about() -> None:
    names = [name for name in packaged() if name.startswith("paper/")]
    recipes = {name: read_recipe(name) for name in names}
    merged = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, AdaLTMRecipe)}
    assert len(merged) == 8 and all(recipe.final_norm for recipe in merged.values())
    based = {name for name, recipe in recipes.items() if recipe.model_dump().get("base") == BASE}
    assert set(names) - based == {"paper/late-fusion", "paper/text"}
    multitask = {name: recipe for name, recipe in recipes.items() if isinstance(recipe, MultitaskRecipe)}
    assert len(multitask) == 3 and all(recipe.final_norm for recipe in multitask.values())
    assert not any(recipe.freeze_front_end for recipe in multitask.values()), "fully trainable"
    assert (
        len({r.model_dump_json(exclude={"vectors", "init", "asr_weight"}) for r in multitask.values()}) == 1
    )
    assert multitask["paper/mtl-merged"].vectors == recipes["paper/dual"].vectors
    shared = {
        recipe.model_dump_json(exclude={"vectors", "granularity", "init"}) for recipe in merged.values()
    }
    assert len(shared) == 1
    dual = merged["paper/dual"]
    assert (dual.rates.coefficients, dual.data.batch_size, dual.training.epochs) == (1e-4, 32, 100)
    assert dual.data.labels == tuple(EMOTIONS.values()) and dual.init == 0.5
    used = {run.recipe for run in read_table_spec("adaltm-paper").runs.values()}
    assert set(names) == used | {"paper/harmonifuse"}


def test_what_a_table_speaks_itself_is_no_fault_and_its_clips_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("reproduce", "adaltm", "--scale", "demo", "--dry-run")
    assert done.exit_code == 0, done.stderr
    for name, spec in read_table_spec("adaltm").scale("demo").corpora.items():
        train, dev, test = spec.synth["clips"]
        assert re.search(rf"corpus {name} \(.*\): train {train}, dev {dev}, test {test}$", done.stdout, re.M)
    assert done.stdout.endswith("no fault found\n") and not list(tmp_path.iterdir())
    # No run stands alone, without clips, costs or notes.
    assert not re.search(rf"^({'|'.join(read_table_spec('adaltm').runs)})\n\n", done.stdout, re.M)


def test_a_disk_that_is_too_small_is_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    code, found = train(place, "paper/frozen")
    (fault,) = found["faults"]
    assert code == 2 and re.fullmatch(
        r"[\d.]+ GB of disk are needed under runs.* and 0\.0 GB are free; free some, .*", fault
    )
