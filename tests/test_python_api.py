"""The names of `voxstrata` for Python: known to checkers of types, told on a page, printed in a line."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import voxstrata as vs
from printed_shapes import shape
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.labels import LabelSet
from voxstrata.methods.encoder_models import EmotionModel
from voxstrata.methods.model_folder import save_model

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_every_public_name_loads_and_no_other() -> None:
    for name in vs.__all__:
        assert getattr(vs, name) is not None and name in dir(vs)
    with pytest.raises(AttributeError, match=r"no attribute 'no_such_name'; it has .*TaskVector"):
        _ = vs.no_such_name


def test_the_import_loads_no_torch() -> None:
    code = "import sys, voxstrata; dir(voxstrata); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def checked(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What mypy says of a user's file, with this package's own settings and cache."""
    (folder / "user.py").write_text(text)
    settings = ("--config-file", "pyproject.toml", "--cache-dir", ".mypy_cache/user")
    command = [sys.executable, "-m", "mypy", *settings, str(folder / "user.py")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_checkers_of_types_know_every_public_name_and_refuse_others(tmp_path: Path) -> None:
    names = [name for name in vs.__all__ if name != "__version__"]
    lines = [f"reveal_type(vs.{name})" for name in names]
    done = checked(tmp_path, "\n".join(["import voxstrata as vs", *lines, "vs.no_such_name"]) + "\n")
    told = dict(re.findall(r"user\.py:(\d+): (.*)", done.stdout))
    assert len(told) == len(names) + 1, done.stdout + done.stderr
    answers = {
        "load_backbone": vs.SpeechEncoder,
        "merge_files": vs.FileMerge,
        "prepare": vs.PreparedCorpus,
        "train": vs.Run,
        "embed": vs.Embeddings,
        "evaluate": vs.Scores,
        "compare": vs.Comparison,
        "parts": vs.Prediction,
    }
    for line, name in enumerate(names, start=2):
        kind = answers.get(name, getattr(vs, name))
        assert f"{kind.__module__}.{kind.__name__}" in told[str(line)]
        assert "Any" not in told[str(line)].split("->")[-1]
    assert 'has no attribute "no_such_name"' in told[str(len(names) + 2)]
    assert done.returncode == 1


USE = """
import voxstrata as vs

corpus: vs.PreparedCorpus = vs.prepare("table", "calls.csv", "prepared")
run = vs.train("finetune-ser", "seed=1", data={"corpora": corpus}, progress=lambda now: print(now.loss + 1))
same: bool = vs.Run(run.path).is_complete
scores = vs.evaluate(run, labels=["anger"], prior={"anger": 1.0}, train_prior="uniform")
scores.clips + run.scores["test"].clips
vs.compare(run, [{"id": "a"}]).differences["uar"].interval[0] + 1.0
rows: list[vs.Prediction] = run.predictions("dev")
run.recognizer()("call.wav").emotion
{name: vs.evaluate(those) for name, those in vs.parts(run, "speaker", corpus).items()}
"""
WRONG = ["run.score", "vs.evaluate(run, splits='dev')", "vs.compare(run)", "run.predictions(3)", "scores.wer"]


@pytest.mark.slow
def test_a_script_is_typed_and_its_slips_are_found(tmp_path: Path) -> None:
    lines = USE.strip().splitlines()
    done = checked(tmp_path, "\n".join(lines))
    assert done.returncode == 0, done.stdout + done.stderr
    done = checked(tmp_path, "\n".join([*lines, *WRONG]))
    found = {int(line) for line in re.findall(r"user\.py:(\d+): error", done.stdout)}
    assert found == set(range(len(lines) + 1, len(lines) + len(WRONG) + 1)), done.stdout


def test_every_public_name_says_what_it_takes_gives_and_raises() -> None:
    for name in vs.__all__[:-1]:
        thing, text = getattr(vs, name), inspect.getdoc(getattr(vs, name)) or ""
        for part in ("Args:", "Example:", *(("Returns:", "Raises:") if inspect.isfunction(thing) else ())):
            assert part in text, f"{name} has no {part}"
        for parameter in inspect.signature(thing).parameters:
            # Several share a line: "arousal, valence, dominance: ...".
            line = rf"^ +([\w, ]+, )?{parameter}(, [\w, ]+)?: "
            assert re.search(line, text, re.MULTILINE), f"{name} does not say what {parameter} is"


@pytest.mark.slow
def test_the_examples_of_the_page_are_typed(tmp_path: Path) -> None:
    done = checked(tmp_path, "\n".join(examples()))
    assert done.returncode == 0, done.stdout + done.stderr


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_sections_of_the_page_are_public_names_with_a_sentence_and_an_example() -> None:
    _, *parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    assert sections and set(sections) <= {*vs.__all__, "Errors"}
    for name, text in sections.items():
        assert re.search(r"^[A-Z].*\.", text, re.MULTILINE) and "```python" in text, name
    assert "(docs/python.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def place(
    encoder_folder: Path, expert_folders: dict[str, Path], recordings: list[Path], tmp_path: Path
) -> Path:
    """A folder with all that the page's examples name."""
    shutil.copytree(encoder_folder, tmp_path / "microsoft" / "wavlm-large")
    for name, folder in expert_folders.items():
        shutil.copytree(folder, tmp_path / "runs" / name / "model" / "encoder")
    model = EmotionModel(vs.load_backbone(encoder_folder), LabelSet(("anger", "neutral")))
    save_model(model, tmp_path / "runs" / "joint" / "model")
    shutil.copy(recordings[0], tmp_path / "call.wav")
    (tmp_path / "calls.csv").write_text("path,emotion,split\ncall.wav,anger,test\n")
    prepare("table", tmp_path / "calls.csv", tmp_path / "prepared" / "calls")
    return tmp_path


@pytest.mark.usefixtures("speech_by_level")
def test_the_examples_of_the_page_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    for example in examples():
        exec(compile(example, "docs/python.md", "exec"), names)
    told = capsys.readouterr().out
    assert "absent.wav None no file at absent.wav" in told
    assert "all samples are zero in the array: silence" in told and vs.__version__ in told
    assert "anger\n" in told
    shown = re.findall(r"^<!-- output -->\n```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    printed = set(map(shape, told.splitlines()))
    assert len(shown) == 2 and {shape(line) for block in shown for line in block.splitlines()} <= printed


def test_all_objects_print_in_one_short_line(place: Path) -> None:
    base = vs.load_backbone(place / "microsoft" / "wavlm-large")
    asr = vs.TaskVector.between(base, place / "runs" / "asr")
    zero = vs.TaskVector.between(base, place / "microsoft" / "wavlm-large")
    merged = vs.MergedBackbone(base, {"asr": asr, "ser": zero}, init={"asr": 0.25, "ser": 1.0})
    states = base(torch.randn(2, 8000), torch.tensor([8000, 4000]))
    corpus = PreparedCorpus.load(place / "prepared" / "calls")
    recognizer = vs.Recognizer.load(place / "runs" / "joint")
    norm = sum(float(delta.double().square().sum()) for delta in asr.deltas.values()) ** 0.5
    parameters = sum(parameter.numel() for parameter in base.model.parameters()) / 1e6
    tensors = f"tensors={len(base.weights())}"
    for thing, parts in [
        (asr, ("runs/asr'", tensors, "groups=3", "zero groups: none", f"norm={norm:.4g}")),
        (zero, ("zero groups: 0, 1, 2", "norm=0")),
        (base, ("wavlm, 2 layers of 32", f"{parameters:.3g} million parameters", "frozen")),
        (merged, ("wavlm, 2 layers of 32", "asr 0.25", "ser 1.00", "layer")),
        (recognizer, ("EmotionModel over wavlm, 2 layers of 32",)),
        (states, (f"2 layers of {list(states.layers[0].shape)}", "valid frames")),
        (corpus, ("'table'", "test 1", "1 classes")),
    ]:
        text = str(thing)
        assert len(text) < 300 and "\n" not in text and text.startswith(type(thing).__name__), text
        assert all(part in text for part in parts), text


def test_a_long_source_is_cut_to_its_end() -> None:
    vector = vs.TaskVector({"encoder.layers.0.x": torch.ones(4)}, "0" * 64, "a/" * 400 + "expert")
    assert "/expert'" in repr(vector) and "norm=2" in repr(vector) and len(repr(vector)) < 200
