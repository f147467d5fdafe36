"""MSP-Podcast on small trees in the layout of its releases."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from voxstrata.cli.main import app
from voxstrata.corpora import msp_podcast
from voxstrata.corpora.msp_ratings import read_ratings, split_detail
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError

HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
#: File, letter, speaker, part, transcript (None: no file).
TURNS = [
    ("MSP-PODCAST_0001_0008.wav", "A", "127", "Train", "Well, [Ann 00:01:12] don't!"),
    ("MSP-PODCAST_0001_0009.wav", "H", "127", "Train", "[inaudible 00:00:03]"),
    ("MSP-PODCAST_0002_0033_0001.wav", "N", "Unknown", "Train", "...and so it goes..."),
    ("MSP-PODCAST_0003_0001.wav", "O", "130", "Train", "other"),
    ("MSP-PODCAST_0004_0001.wav", "X", "131", "Development", "nobody agrees"),
    ("MSP-PODCAST_0004_0002.wav", "C", "131", "Development", "I was going to-"),
    ("MSP-PODCAST_0005_0001.wav", "S", "140", "Test1", "one"),
    ("MSP-PODCAST_0006_0001.wav", "U", "Unknown", "Test2", "two"),
    ("MSP-PODCAST_0007_0001.wav", "D", "150", "Test3", "three"),
]
#: The same answers in both layouts: file, worker, primary, secondary.
ANSWERS = [
    ("MSP-PODCAST_0001_0008.wav", "WORKER00000001", "Angry", "Angry,Sad"),
    ("MSP-PODCAST_0001_0008.wav", "WORKER00000002", "Angry", ""),
    ("MSP-PODCAST_0001_0008.wav", "WORKER00000003", "Neutral", "Concerned,Confused"),
    ("MSP-PODCAST_0001_0009.wav", "WORKER00000001", "Other-happy; but tired", "Happy"),
]


def wav(path: Path, seed: int, sample_rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).normal(size=(2 * sample_rate // 10, channels)) * 0.1
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")


def details(layout: str) -> str:
    if layout == "columns":
        head = "FileName,Worker(s),EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom"
        rows = [f'{name},{worker},{first},"{second}",3,4,5' for name, worker, first, second in ANSWERS]
        return "\n".join([head, *rows])
    cells = [
        (name, f"{worker}; {first}; {second + '; ' if second else ''}A:3.0; V:3.0; D:4.0;")
        for name, worker, first, second in ANSWERS
    ]
    quote = '"' if layout == "quoted" else ""
    return "\n".join(["FileName,EmoDetail", *(f"{name},{quote}{cell}{quote}" for name, cell in cells)])


def release(
    root: Path,
    *,
    layout: str = "quoted",
    labels: str = "Labels",
    table: str = "labels_consensus.csv",
    audio: bool = True,
) -> Path:
    rows = [f"{name},{letter},5.2,3,4.4,{speaker},Female,{part}" for name, letter, speaker, part, _ in TURNS]
    (root / labels).mkdir(parents=True)
    (root / labels / table).write_text("\n".join([HEADER, *rows]) + "\n")
    (root / labels / "labels_detailed.csv").write_text(details(layout) + "\n")
    (root / "Audios").mkdir()
    (root / "Transcripts").mkdir()
    for seed, (name, _, _, _, text) in enumerate(TURNS):
        if audio:
            wav(root / "Audios" / name, seed)
        if text is not None:
            (root / "Transcripts" / name.replace(".wav", ".txt")).write_text(text)
    return root


def test_a_turn_has_all_that_the_release_tells(tmp_path: Path) -> None:
    clip = msp_podcast.read(release(tmp_path))[0]
    assert (clip.id, clip.speaker, clip.split) == (
        "msp-podcast/MSP-PODCAST_0001_0008",
        "msp-podcast-127",
        "train",
    )
    assert (clip.emotion, clip.text, clip.votes) == (
        "anger",
        "well ann don't",
        {"anger": 2.0, "neutral": 1.0},
    )
    assert clip.path == tmp_path / "Audios" / "MSP-PODCAST_0001_0008.wav"
    assert clip.extras == {
        "arousal": "5.2", "valence": "3", "dominance": "4.4", "consensus": "A", "part": "Train",
        "gender": "female",
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["plain", "quoted", "columns"])
def test_all_layouts_of_the_answers_give_the_same_votes(tmp_path: Path, layout: str) -> None:
    clips = {clip.path.stem: clip for clip in msp_podcast.read(release(tmp_path, layout=layout))}
    assert clips["MSP-PODCAST_0001_0008"].votes == {"anger": 2.0, "neutral": 1.0}
    assert clips["MSP-PODCAST_0001_0009"].votes == {}  # "Other-happy; but tired" is no vote for happiness
    both = {clip.path.stem: clip for clip in msp_podcast.read(tmp_path, votes="both")}
    assert both["MSP-PODCAST_0001_0008"].votes == {"anger": 2.0, "neutral": 1.0, "sadness": 1.0}
    assert both["MSP-PODCAST_0001_0009"].votes == {"happiness": 1.0}
    assert not any(clip.votes for clip in msp_podcast.read(tmp_path, votes="none"))


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ("WORKER1; Sad; Sad,Calm; A:3.0; V:3.0; D:4.0;", ("Sad", "Sad,Calm")),
        ("WORKER1; Sad; A:3.0; V:3.0; D:4.0;", ("Sad", "")),
        ("WORKER1; Sad; ; A:3.0; V:3.0; D:4.0;", ("Sad", "")),
        ("WORKER1; Other-so; so; what; Calm; A:3.0; V:nan; D:4.0", ("Other-so; so; what", "Calm")),
    ],
)
def test_the_answer_of_an_annotator_is_taken_apart(detail: str, expected: tuple[str, str]) -> None:
    assert split_detail(detail) == expected


def test_answers_that_are_none_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "labels_detailed.csv"
    path.write_text("FileName,EmoDetail\na.wav,WORKER1; Sad; A:3.0; V:3.0; D:4.0;\nb.wav,nothing\n")
    with pytest.raises(CorpusError, match=r"annotator in line 3;"):
        read_ratings(path)
    path.write_text("File,Detail\n")
    with pytest.raises(CorpusError, match=r"line 1: need FileName,EmoDetail or .*; found File,Detail"):
        read_ratings(path)


def test_turns_without_answers_and_answers_without_turns_are_counted(tmp_path: Path) -> None:
    path = release(tmp_path) / "Labels" / "labels_detailed.csv"
    notes: list[str] = []
    msp_podcast.read(tmp_path, note=notes.append)
    # Of eight turns that are read two have answers, one of them none for a class.
    assert "6 turns have no votes: no row of labels_detailed.csv names them" in notes
    assert not any("name no turn" in note for note in notes)
    whole = path.read_text()
    path.write_text(whole.replace("0001_0008", "9999_0001"))
    notes.clear()
    msp_podcast.read(tmp_path, note=notes.append)
    assert "7 turns have no votes: no row of labels_detailed.csv names them" in notes
    (line,) = [note for note in notes if "name no turn" in note]
    assert line.startswith("3 rows of labels_detailed.csv name no turn of labels_consensus.csv, such as 'MSP")
    # Answers on turns that are left out are no fault.
    path.write_text(whole.replace("0001_0009", "0007_0001"))
    notes.clear()
    msp_podcast.read(tmp_path, note=notes.append)
    assert not any("name no turn" in note for note in notes)


def test_answers_on_other_turns_alone_are_refused_and_votes_can_be_done_without(tmp_path: Path) -> None:
    path = release(tmp_path) / "Labels" / "labels_detailed.csv"
    for content, told in (
        (path.read_text().replace(".wav", ""), "MSP-PODCAST_0001_0008 there, MSP-PODCAST_0001_0008.wav here"),
        ("FileName,EmoDetail\n", "no rows there"),
    ):
        path.write_text(content)
        with pytest.raises(CorpusError, match=rf"{told}.*--option votes=none") as fault:
            msp_podcast.read(tmp_path)
        assert "\n" not in str(fault.value)
    path.unlink()
    with pytest.raises(CorpusError, match=r"no labels_detailed\.csv in .*, or go .*: --option votes=none"):
        msp_podcast.read(tmp_path)
    notes: list[str] = []
    assert len(msp_podcast.read(tmp_path, votes="none", note=notes.append)) == 8
    assert not any("votes" in note for note in notes)


@pytest.mark.parametrize("name", ["Partition.txt", "Labels/labels_consensus.csv"])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    path = release(tmp_path) / name
    text = path.read_text() if path.is_file() else "Train; MSP-PODCAST_0001_0008.wav\nTrain; Zo.wav\n"
    path.write_bytes(text.replace("Zo", "Zoë").replace("Female", "Zoë").encode("latin-1"))
    with pytest.raises(CorpusError, match=rf"{name}.* UTF-8.*; ") as fault:
        msp_podcast.read(tmp_path)
    assert "\n" not in str(fault.value)
    assert name != "Partition.txt" or ", line 2: not UTF-8 (byte 0xeb" in str(fault.value)


@pytest.mark.parametrize(
    ("labels", "table"),
    [
        ("Labels", "labels_consensus.csv"),
        ("labels", "labels_concensus.csv"),
        ("label", "labels_concensus.csv"),
    ],
)
def test_the_spellings_of_all_releases_are_read(tmp_path: Path, labels: str, table: str) -> None:
    root = release(tmp_path, labels=labels, table=table)
    path = root / labels / table
    path.write_text(path.read_text().replace("Development", "Validation"))
    assert [clip.split for clip in msp_podcast.read(root)] == ["train"] * 4 + ["dev"] * 2 + ["test"] * 2


@pytest.mark.parametrize("name", ["Partition.txt", "Partitions.txt"])
def test_a_release_without_the_column_has_its_parts_in_a_list(tmp_path: Path, name: str) -> None:
    path = release(tmp_path) / "Labels" / "labels_consensus.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))
    with pytest.raises(CorpusError, match="no column Split_Set"):
        msp_podcast.read(tmp_path)
    (tmp_path / name).write_text("".join(f"{part}; {file}\n" for file, _, _, part, _ in TURNS))
    assert [clip.split for clip in msp_podcast.read(tmp_path)] == ["train"] * 4 + ["dev"] * 2 + ["test"] * 2


@pytest.mark.parametrize(
    ("test", "parts"), [("pooled", ["Test1", "Test2"]), ("test1", ["Test1"]), ("test2", ["Test2"])]
)
def test_the_test_set_is_chosen_and_the_others_are_counted(
    tmp_path: Path, test: str, parts: list[str]
) -> None:
    notes: list[str] = []
    clips = msp_podcast.read(release(tmp_path), test=test, note=notes.append)
    assert [clip.extras["part"] for clip in clips if clip.split == "test"] == parts
    (line,) = [note for note in notes if note.startswith("left out")]
    assert "Test3 1" in line and all(f"{part} 1" in line for part in {"Test1", "Test2"} - set(parts))


def test_the_papers_filter_leaves_classes_with_words_and_counts_the_rest(tmp_path: Path) -> None:
    notes: list[str] = []
    clips = msp_podcast.read(release(tmp_path), keep="paper", note=notes.append)
    assert [clip.path.stem[12:] for clip in clips] == [
        "0001_0008", "0002_0033_0001", "0004_0002", "0005_0001", "0006_0001",
    ]  # fmt: skip
    assert all(clip.emotion and clip.text for clip in clips)
    assert "left out (other parts): Test3 1" in notes
    assert (
        "left out (the paper's filter): no transcript 1, another emotion (O) 1, no plurality (X) 1" in notes
    )


def test_without_the_filter_no_plurality_is_no_emotion(tmp_path: Path) -> None:
    notes: list[str] = []
    clips = {clip.path.stem[12:]: clip for clip in msp_podcast.read(release(tmp_path), note=notes.append)}
    assert len(clips) == 8 and clips["0003_0001"].emotion is None and clips["0004_0001"].emotion is None
    assert "without an emotion: another emotion (O) 1, no plurality (X) 1" in notes


def test_unknown_speakers_are_nobody(tmp_path: Path) -> None:
    prepared = prepare("msp-podcast", release(tmp_path / "msp"), tmp_path / "out")
    assert prepared.summary.speakers == {
        "-": 2, "msp-podcast-127": 2, "msp-podcast-130": 1, "msp-podcast-131": 2, "msp-podcast-140": 1,
    }  # fmt: skip
    assert any(note.startswith("speaker unknown: train 1, test 1;") for note in prepared.notes)
    assert {cut.supervisions[0].speaker for cut in prepared.cuts("test")} == {None, "msp-podcast-140"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Ann 00:01:12] said", "ann said"),
        ("... so [inaudible 00:01:14] yes ...", "so yes"),
        ("[crosstalk 00:00:01]", None),
        ("Don’t you-", "don't you"),
        ("[00:01:12] Hi", "hi"),
        ("...", None),
        ("", None),
    ],
)
def test_transcripts_lose_their_marks(text: str, words: str | None) -> None:
    assert msp_podcast.clean_transcript(text) == words


def test_a_transcript_in_windows_encoding_keeps_its_apostrophe(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "Transcripts" / "MSP-PODCAST_0005_0001.txt").write_bytes("it’s".encode("cp1252"))
    clips = {clip.path.stem: clip for clip in msp_podcast.read(tmp_path)}
    assert clips["MSP-PODCAST_0005_0001"].text == "it's"


def test_a_release_without_transcripts_says_so(tmp_path: Path) -> None:
    for path in (release(tmp_path) / "Transcripts").iterdir():
        path.unlink()
    (tmp_path / "Transcripts").rmdir()
    notes: list[str] = []
    assert all(clip.text is None for clip in msp_podcast.read(tmp_path, note=notes.append))
    assert any("no clip has a transcript" in note for note in notes)
    with pytest.raises(CorpusError, match=r"no turn .* is left .*no transcript 6"):
        msp_podcast.read(tmp_path, keep="paper")


def test_a_stereo_file_at_another_rate_and_a_missing_one(tmp_path: Path) -> None:
    root = release(tmp_path / "msp")
    wav(root / "Audios" / TURNS[0][0], 0, 44_100, 2)
    cut = prepare("msp-podcast", root, tmp_path / "out").cuts()[0]
    assert cut.num_samples == 3200 and cut.recording.sampling_rate == 16_000
    (root / "Audios" / TURNS[0][0]).unlink()
    with pytest.raises(CorpusError, match="1 missing file"):
        prepare("msp-podcast", root, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "kind"), [(",A,", ",Q,", "1 unknown label"), ("Test1", "Test9", "1 unknown split")]
)
def test_an_unknown_letter_or_part_is_a_fault(tmp_path: Path, old: str, new: str, kind: str) -> None:
    path = release(tmp_path / "msp") / "Labels" / "labels_consensus.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CorpusError, match=kind):
        prepare("msp-podcast", tmp_path / "msp", tmp_path / "out")


def test_a_rating_that_is_none_is_absent_and_the_fingerprint_knows_the_others(tmp_path: Path) -> None:
    path = release(tmp_path / "msp") / "Labels" / "labels_consensus.csv"
    first = prepare("msp-podcast", tmp_path / "msp", tmp_path / "out").fingerprint
    path.write_text(path.read_text().replace(",5.2,", ",5.3,", 1))
    assert prepare("msp-podcast", tmp_path / "msp", tmp_path / "out").fingerprint != first
    path.write_text(path.read_text().replace(",5.3,3,", ",NaN,,", 1))
    assert set(msp_podcast.read(tmp_path / "msp")[0].extras) == {"dominance", "consensus", "part", "gender"}


def test_the_command_takes_the_choices_and_prints_them(tmp_path: Path) -> None:
    arguments = ["corpus", "prepare", "msp-podcast", str(release(tmp_path / "msp")), str(tmp_path / "out")]
    chosen = ["--option", "keep=paper", "--option", "test=test2", "--map", "four-classes"]
    result = CliRunner().invoke(app, [*arguments, *chosen])
    assert result.exit_code == 0, result.output
    assert "options: test=test2 keep=paper votes=primary" in result.stdout
    assert "speaker unknown: train 1, test 1" in result.stdout
    assert "contempt -> no emotion (1 clip, votes in 0)" in result.stdout
    prepared = PreparedCorpus.load(tmp_path / "out")
    assert prepared.labels == ("anger", "happiness", "neutral", "sadness")
    assert prepared.options == {"test": "test2", "keep": "paper", "votes": "primary"}
    assert prepared.maps == ("four-classes",) and len(prepared.cuts("test")) == 1
    content = json.loads(CliRunner().invoke(app, [*arguments, *chosen, "--json"]).stdout)
    assert content["notes"] == list(prepared.notes) and content["options"] == prepared.options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("test=test3", "option test is one of pooled, test1, test2; found 'test3'"),
        ("filter=paper", r"no option 'filter'; it has test \(pooled\|test1\|test2\), keep"),
        ("test", "form name=value; found 'test'"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(tmp_path: Path, option: str, message: str) -> None:
    arguments = ["corpus", "prepare", "msp-podcast", str(tmp_path), str(tmp_path / "out"), "--option", option]
    refused = CliRunner().invoke(app, arguments)
    with pytest.raises(CorpusError, match=message):
        raise refused.exception or AssertionError(refused.output)


@pytest.mark.slow
def test_the_labels_of_a_hundred_thousand_turns_take_seconds_and_little_memory(tmp_path: Path) -> None:
    count = 100_000
    names = [f"MSP-PODCAST_{i // 100:04d}_{i % 100:04d}.wav" for i in range(count)]
    words = ("Angry", "Neutral", "Other-so; so")
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Audios").mkdir()
    with (tmp_path / "Labels" / "labels_consensus.csv").open("w") as file:
        print(HEADER, file=file)
        for i, name in enumerate(names):
            print(f"{name},{'ACDFHNSUOX'[i % 10]},4.2,3.8,4,{i // 80},Male,Train", file=file)
    with (tmp_path / "Labels" / "labels_detailed.csv").open("w") as file:
        print("FileName,EmoDetail", file=file)
        for i, name in enumerate(names):
            for w in range(5):
                print(f"{name},WORKER{w}; {words[(i + w) % 3]}; Sad,Calm; A:3.0; V:3.0; D:4.0;", file=file)
    start = time.process_time()
    clips = msp_podcast.read(tmp_path)
    assert time.process_time() - start < 20
    assert len(clips) == count and sum(sum(clip.votes.values()) for clip in clips) > 3 * count
    del clips
    tracemalloc.start()
    kept = msp_podcast.read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == count and peak < 250e6
