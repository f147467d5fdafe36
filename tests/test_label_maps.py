"""Named maps of labels: what they change, what they say, what they refuse."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora.clip import Clip
from voxstrata.corpora.label_maps import LABEL_MAPS, label_map_named, map_labels
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.corpora.readers import READERS
from voxstrata.errors import LabelError
from voxstrata.labels import EMOTIONS


def clip(emotion: str | None, **votes: float) -> Clip:
    return Clip("c", Path("c.wav"), "s", "train", emotion, votes)


def test_four_classes_of_eight() -> None:
    four = label_map_named("four-classes")
    assert four.targets(EMOTIONS) == ("anger", "happiness", "neutral", "sadness")
    clips, account = map_labels(
        [
            clip("anger", anger=2, disgust=1),
            clip("contempt", contempt=3, anger=2),
            clip(None, anger=1, fear=1),
        ],
        four,
    )
    assert [(c.emotion, c.votes) for c in clips] == [
        ("anger", {"anger": 2}),
        (None, {}),  # the two votes for anger must not make it a clip of anger
        (None, {"anger": 1}),
    ]
    assert account.startswith(
        "map four-classes: calm -> no emotion (0 clips, votes in 0); contempt -> no emotion (1"
    )
    assert account.endswith("; kept: anger 1")


def test_labels_that_fall_together_add_their_votes() -> None:
    (mapped,), account = map_labels([clip("calm", calm=2, neutral=1, fear=1)], LABEL_MAPS["calm-to-neutral"])
    assert (mapped.emotion, mapped.votes) == ("neutral", {"fear": 1, "neutral": 3})
    assert account == ("map calm-to-neutral: calm -> neutral (1 clip, votes in 1); kept: fear 0, neutral 0")


def test_maps_go_one_after_the_other() -> None:
    clips = [clip("excitement"), clip("frustration")]
    for name in ("excited-to-happy", "four-classes"):
        clips, _ = map_labels(clips, label_map_named(name))
    assert [c.emotion for c in clips] == ["happiness", None]


def test_what_a_map_does_not_know_is_refused() -> None:
    with pytest.raises(LabelError, match="map four-classes has no line for 'boredom'; it knows anger,"):
        map_labels([clip("boredom")], LABEL_MAPS["four-classes"])
    with pytest.raises(LabelError, match="has no line for 'boredom'"):
        map_labels([clip("anger", boredom=1)], LABEL_MAPS["four-classes"])
    with pytest.raises(
        LabelError, match="no label map 'nine'; there are calm-to-neutral, excited-to-happy, four"
    ):
        label_map_named("nine")


@given(st.lists(st.sampled_from([*EMOTIONS, "calm"]), max_size=20), st.sampled_from(sorted(LABEL_MAPS)))
def test_a_map_agrees_with_a_plain_loop_and_twice_is_once(emotions: list[str], name: str) -> None:
    clips, _ = map_labels([clip(emotion, **{emotion: 1.0}) for emotion in emotions], LABEL_MAPS[name])
    expected = []
    for emotion in emotions:
        if name == "calm-to-neutral" and emotion == "calm":
            emotion = "neutral"
        kept = name != "four-classes" or emotion in ("anger", "happiness", "neutral", "sadness")
        expected.append(emotion if kept else None)
    assert [c.emotion for c in clips] == expected
    assert map_labels(clips, LABEL_MAPS[name])[0] == clips


def test_every_corpus_of_emotions_can_be_brought_to_four_classes() -> None:
    four = LABEL_MAPS["four-classes"]
    named = {reader.name: four.targets(reader.labels) for reader in READERS.values() if reader.labels}
    assert {"ravdess", "crema-d", "iemocap", "msp-podcast"} <= set(named)
    assert all(set(labels) == {"anger", "happiness", "neutral", "sadness"} for labels in named.values())


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    for seed, name in enumerate(("03-01-02-01-01-01-01", "03-01-01-01-01-01-01", "03-01-08-01-01-01-01")):
        path = tmp_path / "RAVDESS" / "Actor_01" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(seed).normal(size=800) * 0.1, 16_000)
    return tmp_path / "RAVDESS"


def test_the_command_maps_and_prints_what_it_did(ravdess: Path, tmp_path: Path) -> None:
    arguments = [
        "corpus",
        "prepare",
        "ravdess",
        str(ravdess),
        str(tmp_path / "out"),
        "--map",
        "calm-to-neutral",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "calm -> neutral (1 clip, votes in 0); kept: neutral 1, surprise 1" in result.stdout
    assert "calm" not in [line.split()[0] for line in result.stdout.splitlines() if line]


def test_labels_are_those_after_the_maps_and_the_fingerprint_knows_them(
    ravdess: Path, tmp_path: Path
) -> None:
    plain = prepare("ravdess", ravdess, tmp_path / "plain")
    mapped = prepare(
        "ravdess", ravdess, tmp_path / "out", maps=["calm-to-neutral"], labels=["surprise", "neutral"]
    )
    assert "calm" in plain.labels and mapped.labels == ("surprise", "neutral")
    assert mapped.fingerprint != plain.fingerprint


def test_a_label_of_ones_own_is_mapped_and_the_others_stay() -> None:
    clips = [
        clip("happy", happy=2, glad=1),
        clip("glad"),
        clip("sad"),
        clip("happiness", happy=1, happiness=1),
    ]
    accounts = []
    for name in ("happy=happiness", " glad = happiness ", "sad="):
        clips, account = map_labels(clips, label_map_named(name))
        accounts.append(account)
    assert [c.emotion for c in clips] == ["happiness", "happiness", None, "happiness"]
    assert [c.votes for c in clips] == [{"happiness": 3}, {}, {}, {"happiness": 2}]
    assert accounts[0] == (
        "map happy=happiness: happy -> happiness (1 clip, votes in 2); kept: glad 1, happiness 1, sad 1"
    )
    assert accounts[2].startswith("map sad=: sad -> no emotion (1 clip")


def test_a_label_that_no_clip_has_is_named_with_those_there_are() -> None:
    with pytest.raises(
        LabelError, match=r"map hapy=happiness: no clip has 'hapy'; the labels .* are angry, happy$"
    ):
        map_labels([clip("happy"), clip(None, angry=1)], label_map_named("hapy=happiness"))


@pytest.mark.parametrize("name", ["=happiness", "=", "happy", "a=b=c", "a\n=b"])
def test_what_is_no_map_is_told_how_to_write_one(name: str) -> None:
    with pytest.raises(LabelError, match=r"no label map .*four-classes, and OLD=NEW for a label of your own"):
        label_map_named(name)


def test_the_command_takes_maps_of_ones_own_beside_the_named_ones(tmp_path: Path) -> None:
    rows = ["path,emotion"]
    for seed, emotion in enumerate(("happy", "angry", "calm", "neutral")):
        soundfile.write(tmp_path / f"{seed}.wav", np.random.default_rng(seed).normal(size=800) * 0.1, 16_000)
        rows.append(f"{seed}.wav,{emotion}")
    (tmp_path / "own.csv").write_text("\n".join(rows))
    arguments = ["corpus", "prepare", "table", str(tmp_path / "own.csv"), str(tmp_path / "out")]
    maps = ["--map", "happy=happiness", "--map", "angry=anger", "--map", "calm-to-neutral"]
    result = CliRunner().invoke(app, [*arguments, *maps])
    assert result.exit_code == 0, result.output
    prepared = PreparedCorpus.load(tmp_path / "out")
    assert prepared.labels == ("anger", "happiness", "neutral")
    assert prepared.maps == ("happy=happiness", "angry=anger", "calm-to-neutral")
    refused = CliRunner().invoke(app, [*arguments, "--map", "hapy=happiness"])
    assert isinstance(refused.exception, LabelError) and "no clip has 'hapy'" in str(refused.exception)
