"""What a run is tested on must not have been trained on, by itself or by what it builds on."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.config.leaks import FIT, LEAKS, MATCHES, SPLITS, STAGES
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.prepared import PreparedCorpus, write_prepared
from voxstrata.corpora.summary import summarize
from voxstrata.errors import RecipeError, VoxstrataError
from voxstrata.experiments.leaks.guard import compare, guard
from voxstrata.experiments.leaks.report import LeakError, LeakReport
from voxstrata.experiments.leaks.training_clips import ClipTrace, TrainingClips, Use, training_clips_of
from voxstrata.experiments.run import execute
from voxstrata.experiments.setup import Setup
from voxstrata.methods.registry import methods
from voxstrata.recipes.reading import validate
from voxstrata.reporting.contents import read_run
from voxstrata.reporting.sections import leak_lines
from voxstrata.runs import RunFolder

SER = {"system": "finetune", "task": "ser", "base": "wavlm-tiny", "training": {"steps": 1}}


def trace(
    name: str = "x",
    *,
    id: str | None = None,
    speaker: str | None = "",
    audio: str | None = None,
    sentence: str | None = None,
) -> ClipTrace:
    """A clip that shares nothing with clips of another name but what is given."""
    return ClipTrace(id or name, f"{name}-speaker" if speaker == "" else speaker, audio or name, sentence)


def corpus(
    folder: Path, *clips: tuple[str, str, str | None, str], audio: dict[str, str] | None = None
) -> str:
    """A prepared corpus of (id, split, speaker, text); audio hashes follow from the ids unless given."""
    found = [
        Clip(name, folder / f"{name}.wav", who, split, ("anger", "fear")[i % 2], text=text)
        for i, (name, split, who, text) in enumerate(clips)
    ]
    known = [(8000, (audio or {}).get(clip.id, f"{clip.id:0>16}")) for clip in found]
    summary = summarize(found, [8000] * len(found), ("anger", "fear"))
    write_prepared(folder, "made", found, known, labels=("anger", "fear"), folds=(), summary=summary)
    return str(folder)


def report(*corpora: str) -> LeakReport:
    data = {"corpora": [{"path": path} for path in corpora], "labels": ["anger", "fear"]}
    read = validate(SER | {"data": data}, "made")
    return guard(Setup.of(read), "this").report


def test_names_of_leaks_are_every_stage_against_every_split_by_every_match() -> None:
    assert len(LEAKS) == len(STAGES) * len((*SPLITS, FIT)) * len(MATCHES) == 45
    with pytest.raises(RecipeError, match="fine-tuning/train/speaker: a leak is named STAGE/SPLIT/MATCH"):
        validate(SER | {"allow_leaks": ["fine-tuning/train/speaker"]}, "r")


@pytest.mark.parametrize("name", sorted(LEAKS))
def test_each_kind_is_caught_and_can_be_allowed_and_is_no_other_kind(name: str) -> None:
    stage, split, match = name.split("/")
    met = {"speaker": {"speaker": "ann"}, "clip": {"id": "0001"}, "audio": {"audio": "ab12"}}[match]
    trained = TrainingClips({Use(stage, "expert"): frozenset([trace("a", **met), trace("other")])})
    tested = {split: [trace("b", **met)], "dev" if split == "test" else "test": [trace("c")]}
    (leak,) = compare(trained, tested).leaks
    assert (leak.name, leak.run, leak.found, leak.clips) == (name, "expert", 1, 1)
    with pytest.raises(LeakError, match=rf"in the {stage} of expert .*allow_leaks=\[{name}\]"):
        compare(trained, tested, LEAKS - {name}).require_none()
    allowed = compare(trained, tested, [name])
    allowed.require_none()
    assert allowed.leaks == (replace(leak, allowed=True),) and "leak allowed" in allowed.lines()[0]


names = st.sampled_from("abcdef")
clips = st.lists(st.builds(ClipTrace, names, st.none() | names, names, st.none() | names), max_size=6)


@given(clips, clips)
def test_what_is_found_is_what_a_plain_loop_finds(trained: list[ClipTrace], tested: list[ClipTrace]) -> None:
    found = compare(TrainingClips({Use("fine-tuning", "x"): frozenset(trained)}), {"test": tested})
    expected = {}
    for match, field in {"speaker": "speaker", "clip": "id", "audio": "audio"}.items():
        met = [o for o in tested if any(getattr(o, field) == getattr(t, field) is not None for t in trained)]
        if met:
            expected[f"fine-tuning/test/{match}"] = len(met)
    assert {leak.name: leak.clips for leak in found.leaks} == expected
    shared = sum(any(o.sentence == t.sentence is not None for t in trained) for o in tested)
    assert sum(overlap.shared for overlap in found.sentences) == shared


def test_sentences_and_stages_are_told_and_unknown_speakers_said() -> None:
    same = trace("same", sentence="s1")
    trained = TrainingClips(
        {
            Use("fine-tuning", "ser"): frozenset([same, trace("x", speaker=None)]),
            Use("lambda-fit", "dual"): frozenset([same, trace("y")]),
            Use("selection", "ser"): frozenset([trace("t")]),
        }
    )
    found = compare(trained, {"test": [trace("t", sentence="s1"), trace("u", speaker=None)]})
    found.require_none()
    assert [(o.first, o.second, o.shared, o.of) for o in found.stages] == [
        ("fine-tuning (ser)", "lambda-fit (dual)", 1, 2),
        ("selection (ser)", "test", 1, 2),
    ]
    assert {(o.first, o.shared, o.of) for o in found.sentences} == {
        ("fine-tuning (ser)", 1, 1), ("lambda-fit (dual)", 1, 1),
    }  # fmt: skip
    assert [line.split(":")[0] for line in found.unverified] == ["fine-tuning (ser)", "test"]


def test_a_list_is_read_as_it_was_written_and_the_same_list_gives_the_same_bytes(tmp_path: Path) -> None:
    uses = {Use(s, r): frozenset([trace(s), trace("both", speaker=None)]) for s, r in product(STAGES, "ab")}
    TrainingClips(uses, ("base x: published",)).write(tmp_path / "one")
    TrainingClips(dict(reversed(uses.items())), ("base x: published",)).write(tmp_path / "two")
    assert TrainingClips.read(tmp_path / "one") == TrainingClips(uses, ("base x: published",))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    content = gzip.decompress((tmp_path / "one").read_bytes())
    assert content.count(b'["both"') == 1, "a clip of several uses stands once"
    assert (tmp_path / "one").read_bytes() == zlib.compress(content, 9, wbits=31), "as packed in one piece"
    (tmp_path / "cut").write_bytes((tmp_path / "one").read_bytes()[:-20])
    (tmp_path / "new").write_bytes(gzip.compress(b'{"format": 9}\n'))
    for name, message in {"cut": "no list of training clips", "new": "format 9"}.items():
        with pytest.raises(VoxstrataError, match=message):
            TrainingClips.read(tmp_path / name)


def test_a_list_is_found_from_the_run_its_model_its_encoder_and_a_task_vector(
    tmp_path: Path, encoder_folder: Path, expert_folders: dict[str, Path]
) -> None:
    from voxstrata.backbone.encoder import load_backbone
    from voxstrata.methods.adaltm.task_vector import TaskVector

    encoder = tmp_path / "run" / "model" / "encoder"
    load_backbone(expert_folders["ser"]).save(encoder)
    listed = TrainingClips({Use("fine-tuning", "run"): frozenset([trace()])})
    listed.write(RunFolder(tmp_path / "run").training_clips)
    vector = TaskVector.between(load_backbone(encoder_folder), tmp_path / "run")
    vector.save(tmp_path / "ser.safetensors")
    places = [encoder.parents[1], encoder.parent, encoder, encoder / "model.safetensors"]
    for place in [*places, tmp_path / "ser.safetensors"]:
        assert training_clips_of(place, "vector ser") == listed, place
    told = [training_clips_of(name, "base").unknown[0] for name in ("a/b", str(tmp_path))]
    assert [line.split(": ")[1].split(" ")[0] for line in told] == ["published", "given"]


def test_only_clips_that_are_used_count_and_every_corpus_of_the_recipe(tmp_path: Path) -> None:
    one = corpus(tmp_path / "one", ("a", "train", "ann", "hi there"), ("b", "test", "bob", "hi there"))
    two = corpus(
        tmp_path / "two", ("c", "train", "cyd", "no"), ("d", "dev", "bob", "so"), audio={"c": f"{'b':0>16}"}
    )
    found = report(one, two)
    assert {leak.name for leak in found.leaks} == {"fine-tuning/test/audio"}
    assert [(o.second, o.shared, o.of) for o in found.sentences] == [("test", 1, 1)]
    assert found.checked == {
        "fine-tuning (this)": 2,
        "pretraining (wavlm-tiny)": 12_497,
        "selection (wavlm-tiny)": 451,
    }
    assert report(one).leaks == ()


def test_an_expert_and_its_base_are_held_against_the_run_that_merges_it(tmp_path: Path) -> None:
    mine = corpus(tmp_path / "mine", ("a", "train", "ann", "x"), ("b", "test", "bob", "y"))
    base, expert = tmp_path / "base", tmp_path / "expert"
    heard = TrainingClips({Use("pretraining", "base"): frozenset([trace("p", speaker="bob")])})
    heard.write(RunFolder(base).training_clips)
    tuned = TrainingClips({Use("fine-tuning", "expert"): frozenset([trace("q", audio=f"{'b':0>16}")])})
    tuned.with_parent(heard).write(RunFolder(expert).training_clips)
    merge = {"system": "adaltm", "base": "wavlm-tiny", "vectors": {"ser": str(expert)}}
    merge |= {"training": {"steps": 1}}
    read = validate(merge | {"data": {"corpora": [{"path": mine}], "labels": ["anger", "fear"]}}, "merge")
    found = guard(Setup.of(read), "this")
    assert {leak.name for leak in found.report.leaks} == {
        "pretraining/test/speaker",
        "fine-tuning/test/audio",
    }
    assert set(found.trained.uses) == {
        Use("lambda-fit", "this"), Use("fine-tuning", "expert"), Use("pretraining", "base"),
        Use("pretraining", "wavlm-tiny"), Use("selection", "wavlm-tiny"),
    }  # fmt: skip
    assert found.report.unverified == ()


def test_pseudo_labels_are_a_use_of_their_own_and_their_giver_is_not_known(tmp_path: Path) -> None:
    folder = Path(corpus(tmp_path / "c", ("a", "train", "ann", "x"), ("b", "test", "ann", "y")))
    assert {leak.name for leak in report(str(folder)).leaks} == {"fine-tuning/test/speaker"}
    clips = [
        Clip(
            n,
            folder / n,
            "ann",
            s,
            "anger",
            extras={"emotion_source": "pseudo-labels"} if s == "train" else {},
        )
        for n, s in (("a", "train"), ("b", "test"))
    ]
    summary = summarize(clips, [8000, 8000], ("anger",))
    write_prepared(
        folder, "made", clips, [(8000, "1"), (8000, "2")], labels=("anger",), folds=(), summary=summary
    )
    found = report(str(folder))
    assert {leak.name for leak in found.leaks} == {"pseudo-labels/test/speaker", "fine-tuning/test/speaker"}
    assert any("1 training clips have labels of a model" in line for line in found.unverified)


def test_a_run_that_leaks_is_refused_before_anything_is_written(
    tmp_path: Path, encoder_folder: Path, corpus_folder: Path
) -> None:
    values = SER | {"base": str(encoder_folder), "data": {"corpora": [{"path": str(corpus_folder)}]}}
    expert = execute(validate(values, "expert"), RunFolder(tmp_path / "expert"))
    # The expert's test clips become the merge's training clips, and the other way round.
    turned, cuts = tmp_path / "turned", list(PreparedCorpus.load(corpus_folder).cuts())
    turn = {"train": "test", "test": "train", "dev": "dev"}
    clips = [
        Clip(
            cut.id,
            Path(cut.recording.sources[0].source),
            cut.supervisions[0].speaker,
            turn[cut.custom["split"]],
            cut.supervisions[0].custom["emotion"],
        )
        for cut in cuts
    ]
    audio = [(cut.num_samples, cut.custom["audio_sha256"]) for cut in cuts]
    labels = ("anger", "neutral", "sadness")
    summary = summarize(clips, [count for count, _ in audio], labels)
    write_prepared(turned, "turned", clips, audio, labels=labels, folds=(), summary=summary)
    merge = {"system": "adaltm", "base": str(encoder_folder), "vectors": {"ser": str(expert.path)},
             "data": {"corpora": [{"path": str(turned)}]}, "training": {"steps": 1}}  # fmt: skip
    kinds = [f"fine-tuning/test/{match}" for match in MATCHES]
    said: list[str] = []
    with pytest.raises(LeakError, match="8 clips by their audio of test in the fine-tuning of expert"):
        execute(validate(merge, "m"), RunFolder(tmp_path / "merge"))
    assert not [path.name for path in (tmp_path / "merge").iterdir() if path.name != ".lock"]
    run = execute(
        validate(merge | {"allow_leaks": kinds}, "m"), RunFolder(tmp_path / "merge"), notify=said.append
    )
    assert {leak["name"] for leak in json.loads(run.leaks.read_text())["leaks"]} == set(kinds)
    assert sum(line.startswith("leak allowed") for line in said) == 3
    uses = TrainingClips.read(run.training_clips).uses
    assert {use.stage for use in uses} == {"lambda-fit", "selection", "fine-tuning"}
    assert len(uses[Use("fine-tuning", "expert")]) == 8 and len(uses[Use("lambda-fit", "merge")]) == 4
    lines = leak_lines(read_run(run))
    assert sum(line.startswith("Leak allowed by the recipe") for line in lines) == 3
    assert not any("No leak was found" in line for line in lines)
    assert (
        any(line.startswith("Could not be checked: base") for line in lines)
        and "Leaks" in run.report.read_text()
    )


def test_the_report_says_in_few_lines_whether_there_are_leaks() -> None:
    from voxstrata.reporting.contents import LeakNotes, SharedClips

    notes = LeakNotes(
        checked={"fine-tuning (asr)": 34, "fine-tuning (ser)": 34, "selection (asr)": 4},
        sentences=(SharedClips(first="fine-tuning (asr)", second="test", shared=1, of=4),),
        stages=(
            SharedClips(first="fine-tuning (asr)", second="fine-tuning (ser)", shared=30, of=34),
            SharedClips(first="fine-tuning (asr)", second="lambda-fit (joint)", shared=34, of=34),
            SharedClips(first="selection (asr)", second="test", shared=2, of=10),
        ),
        unverified=("base x: no list", "test: the speakers of 3 of 10 clips are not known"),
    )
    lines = leak_lines(SimpleNamespace(leaks=notes))  # type: ignore[arg-type]
    assert lines == [
        "No leak was found: no dev or test clip was trained on, and no other clip of its speaker.",
        "Compared by speaker, clip id and audio with: fine-tuning (asr) 34 clips, fine-tuning (ser) 34 "
        "clips, selection (asr) 4 clips.",
        "Could not be checked: base x: no list; test: the speakers of 3 of 10 clips are not known.",
        "2 of 10 test clips were also in selection (asr).",
        "Used in more than one training, which is no leak: fine-tuning (asr) and fine-tuning (ser): 30 of "
        "34; fine-tuning (asr) and lambda-fit (joint): 34 of 34.",
        "Clips whose words, not sound, were in training: 25.0 % of test in fine-tuning (asr).",
        "(selection: the dev clips by which a run's best weights were chosen)",
    ]


def test_an_exported_model_keeps_its_list(tmp_path: Path, encoder_folder: Path) -> None:
    from typer.testing import CliRunner

    from voxstrata.cli.main import app

    shutil.copytree(encoder_folder, tmp_path / "run" / "model" / "encoder")
    listed = TrainingClips({Use("fine-tuning", "run"): frozenset([trace()])})
    listed.write(RunFolder(tmp_path / "run").training_clips)
    assert CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out")]).exit_code == 0
    assert training_clips_of(tmp_path / "out", "ser") == listed


@pytest.mark.parametrize(
    ("training", "chosen"),
    [({}, True), ({"keep_best": False}, False), ({"keep_best": False, "patience": 3}, True)],
)
def test_dev_clips_that_chose_nothing_are_not_listed(
    tmp_path: Path, training: dict[str, object], chosen: bool
) -> None:
    path = corpus(tmp_path / "c", ("a", "train", "ann", "x"), ("b", "dev", "bob", "y"))
    data = {"corpora": [{"path": path}], "labels": ["anger", "fear"]}
    read = validate(SER | {"data": data, "training": {"steps": 1, **training}}, "made")
    uses = guard(Setup.of(read), "this").trained.uses
    stages = {use.stage for use in uses if use.run == "this"}
    assert stages == {"fine-tuning"} | ({"selection"} if chosen else set())


def learned(
    folder: Path, task: str, base: str, *clips: ClipTrace, parents: TrainingClips | None = None
) -> str:
    """A run that learned words or emotions from clips, over a base."""
    folder.mkdir()
    own = TrainingClips({Use("fine-tuning", folder.name): frozenset(clips)})
    own.with_parent(parents or TrainingClips()).write(RunFolder(folder).training_clips)
    recipe = {"system": "finetune", "task": task, "base": base, "training": {"steps": 1}}
    RunFolder(folder).recipe.write_text(json.dumps(recipe))
    return str(folder)


@pytest.mark.parametrize(
    ("last", "first", "as_base", "refused"),
    [
        ("ser", None, True, True),
        ("ser", None, False, True),
        ("asr", None, True, False),
        ("asr", None, False, False),
        ("asr", "ser", True, True),
        ("asr", "ser", False, True),
        ("asr", "asr", True, False),
    ],
)
def test_held_out_is_held_against_base_and_experts_and_all_that_they_build_on(
    tmp_path: Path, last: str, first: str | None, as_base: bool, refused: bool
) -> None:
    mine = corpus(tmp_path / "mine", ("a", "train", "ann", "x"), ("b", "train", "bob", "z"))
    base, known = "wavlm-tiny", TrainingClips()
    met = trace("q", speaker="ann")
    if first is not None:
        base = learned(tmp_path / "first", first, base, met)
        known, met = TrainingClips.read(RunFolder(Path(base)).training_clips), trace("r")
    source = learned(tmp_path / "last", last, base, met, parents=known)
    used = {"base": source} if as_base else {"base": "wavlm-tiny", "vectors": {"one": source}}
    data = {"corpora": [{"path": mine}], "labels": ["anger", "fear"]}
    read = validate(
        {"system": "adaltm", "fit_on": "heldout", "data": data, "training": {"steps": 1}} | used, "m"
    )
    leaks = guard(Setup.of(read), "this").report.leaks
    assert [leak.name for leak in leaks] == (["fine-tuning/fit/speaker"] if refused else [])


def test_each_method_says_what_its_clips_are_used_for() -> None:
    stages = {name: method.stage for name, method in methods().items()}
    assert set(stages.values()) <= set(STAGES)
    assert stages["adaltm"] == "lambda-fit" and stages["pretraining"] == "pretraining"
    assert stages["finetune"] == "fine-tuning"
