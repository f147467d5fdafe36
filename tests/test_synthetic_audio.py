import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from voxstrata.batches.phonemes import read_phonemes
from voxstrata.corpora.synthetic import espeak, voice_quality
from voxstrata.corpora.synthetic import generate as generate_module
from voxstrata.corpora.synthetic.crew import Crew
from voxstrata.corpora.synthetic.delivery import MEANS
from voxstrata.corpora.synthetic.generate import generate
from voxstrata.corpora.synthetic.lexicon import Lexicon
from voxstrata.corpora.synthetic.oracle import Oracles
from voxstrata.corpora.synthetic.plan import SynthesisOptions, utterances
from voxstrata.corpora.synthetic.prosody import prosody
from voxstrata.corpora.synthetic.rendering import Rendering
from voxstrata.corpora.synthetic.voices import draw_voices
from voxstrata.errors import CorpusError, VoxstrataError
from voxstrata.labels import EMOTIONS

pytest.importorskip("espeakng_loader", reason="the extra synth is not installed")

RATE = 16_000
TINY = SynthesisOptions(clips=(24, 8, 8), voices=(6, 2, 2), seed=3)


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def spoken(folder, renderings):
    """Samples of renderings, made by a worker."""
    paths = [folder / f"{i}.flac" for i in range(len(renderings))]
    with Crew(1) as crew:
        lengths = [duration_s for duration_s, _ in crew.spoken(zip(paths, renderings, strict=True))]
    samples = [soundfile.read(path, dtype="float32")[0] for path in paths]
    assert np.allclose(lengths, [len(x) / RATE for x in samples])
    return samples


def median_f0(samples):
    """Median of the strongest autocorrelation lag (60 to 400 Hz) over loud 40 ms frames, Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::320]
    frames = frames[(frames**2).mean(1) > 0.1 * (frames**2).mean(1).max()]
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(frames, 2048)) ** 2
    lags = np.fft.irfft(spectrum)[:, 40:267]
    return RATE / (40 + np.median(lags.argmax(1)))


def slope_db(samples):
    """Energy above 2 kHz re energy from 100 Hz to 1 kHz, dB."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return 10 * np.log10(power[frequency > 2000].sum() / power[(frequency > 100) & (frequency < 1000)].sum())


@pytest.fixture(scope="module", autouse=True)
def known_oracles():
    """The oracles see the plan only and are tested with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "measure", lambda options, lexicon: Oracles(0.4, 0.5, 0.7))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "one"
    return folder, generate(folder, TINY, jobs=1)


@pytest.fixture(scope="module")
def sentence():
    return next(utterances(replace(TINY, clips=(1, 0, 0)), "train", Lexicon.load()))


def test_one_and_two_workers_write_the_same_bytes(corpus, tmp_path):
    generate(tmp_path / "two", TINY, jobs=2)
    assert digest(tmp_path / "two") == digest(corpus[0])


def test_a_clip_does_not_depend_on_what_was_spoken_before(tmp_path):
    clips = [Rendering.of(c) for c in utterances(TINY, "train", Lexicon.load())][:8]
    forward = spoken(tmp_path / "a", clips)
    backward = spoken(tmp_path / "b", clips[::-1])[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))


def test_an_interrupted_start_goes_on_to_the_same_bytes(corpus, tmp_path):
    folder = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        generate(folder, TINY, jobs=1, progress=_stop_after(17))
    assert json.loads((folder / "synthetic.json").read_text())["complete"] is False
    assert not (folder / "clips.jsonl").exists()
    written = sorted(folder.rglob("*.flac"))
    assert len(written) >= 16
    written[0].write_bytes(b"half")
    generate(folder, TINY, jobs=1)
    assert digest(folder) == digest(corpus[0])


def _stop_after(clips):
    def progress(done):
        if done == clips:
            raise KeyboardInterrupt

    return progress


def test_rows_and_audio_agree(corpus):
    folder, made = corpus
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    assert made.clips == {"train": 24, "dev": 8, "test": 8}
    assert made.labelled == {"train": 8, "dev": 8, "test": 8}  # a fifth, but at least one an emotion
    assert sum(row["emotion"] is not None for row in rows) == 24
    seconds = 0.0
    for row in rows:
        info = soundfile.info(folder / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        samples, _ = soundfile.read(folder / row["path"])
        seconds += len(samples) / RATE
        words = len(row["transcript"].split())
        assert 0.15 * words < len(samples) / RATE < 1.2 * words
        assert np.abs(samples).max() < 0.999
        assert 0.005 < np.sqrt((samples**2).mean()) < 0.3
    assert seconds == pytest.approx(sum(made.seconds.values()), abs=0.01)


def test_the_dials_act_on_the_sound(sentence, tmp_path):
    plain = Rendering.of(replace(sentence, delivery=np.zeros(8)))

    def other(**settings):
        return replace(plain, espeak=replace(plain.espeak, **settings))

    still, fast, high, gap, pause, bright, breathy, loud = spoken(
        tmp_path,
        [
            plain,
            other(rate_wpm=260),
            other(pitch=95),
            other(word_gap=8),
            other(pause_s=0.6),
            replace(plain, tilt_db=plain.tilt_db + 3),
            replace(plain, breath_db=-15.0),
            replace(plain, loudness_db=plain.loudness_db + 6),
        ],
    )
    assert len(fast) < 0.85 * len(still) < len(still) < min(len(gap), len(pause))
    assert median_f0(high) > 1.15 * median_f0(still)
    assert slope_db(bright) > slope_db(still) + 3
    assert slope_db(breathy) > slope_db(still) + 0.5
    assert voice_quality.level(loud) / voice_quality.level(still) == pytest.approx(2, rel=0.05)


def test_the_eight_deliveries_sound_different(sentence, tmp_path):
    voice = draw_voices("train", 1, 0)[0]
    clips = [replace(sentence, voice=voice, delivery=0.5 * np.asarray(MEANS[e])) for e in EMOTIONS]
    sounds = dict(zip(EMOTIONS, spoken(tmp_path, [Rendering.of(c) for c in clips]), strict=True))
    f0 = {e: median_f0(x) for e, x in sounds.items()}
    length = {e: len(x) for e, x in sounds.items()}
    level = {e: voice_quality.level(x) for e, x in sounds.items()}
    assert min(f0["fear"], f0["surprise"]) > 1.05 * max(f0["sadness"], f0["disgust"])
    assert min(length["sadness"], length["disgust"]) > 1.1 * max(length["anger"], length["fear"])
    assert min(level["anger"], level["happiness"]) > 1.2 * max(level["neutral"], level["sadness"])
    assert slope_db(sounds["anger"]) > slope_db(sounds["sadness"]) + 3


def test_each_setting_rises_with_its_dimension(sentence):
    low, high = (prosody(sentence.voice, np.full(8, value)) for value in (-1.5, 1.5))
    for name in vars(low):
        assert getattr(high, name) > getattr(low, name)


def test_signal_processing_with_nothing_to_do_changes_nothing():
    rng = np.random.default_rng(0)
    samples = np.sin(np.arange(4000) / 9).astype(np.float32) * 0.1
    assert np.allclose(voice_quality.jitter(samples, 0.0, RATE, rng)[2:-3], samples[2:-3], atol=1e-6)
    assert np.allclose(voice_quality.tilt(samples, 0.0, RATE), samples, atol=1e-6)
    assert np.allclose(voice_quality.breath(samples, -300.0, RATE, rng), samples, atol=1e-6)


def test_tilt_is_in_decibels_per_octave():
    for frequency, octaves in ((500, -1), (4000, 2)):
        tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
        gain = voice_quality.level(voice_quality.tilt(tone, 2.0, RATE)) / voice_quality.level(tone)
        assert 20 * np.log10(gain) == pytest.approx(2.0 * octaves, abs=0.05)


def test_no_level_makes_a_clip_clip():
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert np.abs(voice_quality.at_level(noise, 0.0)).max() <= voice_quality.PEAK


def test_folders_with_something_else_are_refused(corpus, tmp_path):
    with pytest.raises(CorpusError, match="other options"):
        generate(corpus[0], replace(TINY, seed=4), jobs=1)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(CorpusError, match="not empty"):
        generate(tmp_path, TINY, jobs=1)
    with pytest.raises(CorpusError, match="cannot write"):
        generate(tmp_path / "thesis.tex" / "x", TINY, jobs=1)


def test_a_worker_that_dies_is_said(sentence, tmp_path):
    with pytest.raises(VoxstrataError, match="worker died"), Crew(1) as crew:
        crew._processes[0].kill()
        crew._processes[0].wait()
        list(crew.spoken([(tmp_path / "x.flac", Rendering.of(sentence))]))


def test_a_voice_that_does_not_exist_is_said(sentence, tmp_path):
    clip = Rendering.of(sentence)
    wrong = replace(clip, espeak=replace(clip.espeak, voice="en-us-atlantis"))
    with pytest.raises(VoxstrataError, match="en-us-atlantis"):
        spoken(tmp_path, [wrong])


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VoxstrataError, match=r"voxstrata\[synth\]"):
        generate(tmp_path / "x", TINY)
    assert not (tmp_path / "x").exists()


def test_the_generating_process_never_loads_espeak():
    program = (
        "import sys; from pathlib import Path; import tempfile\n"
        "from voxstrata.corpora.synthetic.generate import generate, SynthesisOptions\n"
        "out = Path(tempfile.mkdtemp()) / 'x'\n"
        "generate(out, SynthesisOptions(clips=(2, 0, 0), read=True), jobs=1)\n"
        "maps = Path('/proc/self/maps')\n"
        "assert 'espeakng_loader' not in sys.modules\n"
        "assert not maps.exists() or 'libespeak' not in maps.read_text()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_phonemes_are_told_at_the_time_they_are_heard(tmp_path, scale):
    """Of "see ... see": each s hisses where its phoneme is told, and the silence between is silent."""
    base = Rendering.of(next(utterances(SynthesisOptions(clips=(1, 0, 0)), "train", Lexicon.load())))
    request = replace(base.espeak, phrases=("see", "see"), pause_s=0.4, rate_wpm=120)
    clip = replace(base, espeak=request, formant_scale=scale, tilt_db=-3, breath_db=-60, floor_db=-80)
    with Crew(1) as crew:
        [(duration_s, text)] = crew.spoken([(tmp_path / "x.flac", clip)])
        assert list(crew.spoken([(tmp_path / "x.flac", clip)])) == [[duration_s, text]]
    samples, _ = soundfile.read(tmp_path / "x.flac", dtype="float32")
    spans = read_phonemes(text)
    ends = [*(start for start, _ in spans[1:]), duration_s]

    def level(start, end, heard=samples):
        return float(np.sqrt(np.mean(heard[int(start * RATE) : int(end * RATE)] ** 2)))

    def places(symbol):
        return [(s, e) for (s, name), e in zip(spans, ends, strict=True) if name == symbol]

    assert [name for _, name in spans if name in "si"] == ["s", "i", "s", "i"]
    for hissing, voiced in zip(places("s"), places("i"), strict=True):
        sharp = [level(*span, heard=np.diff(samples)) / level(*span) for span in (hissing, voiced)]
        assert sharp[0] > 1.25 * sharp[1]
    start, end = max(places("_"), key=lambda span: span[1] - span[0])
    assert end - start > 0.25
    assert level(start + 0.05, end - 0.05) < 0.05 * level(*places("i")[0])
