"""Clear speech: what it leaves as it was, what it promises, and whether a real recogniser hears its words."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.prepare import prepare
from voxstrata.corpora.synthetic.delivery import DIMENSIONS, LIMIT
from voxstrata.corpora.synthetic.generate import generate
from voxstrata.corpora.synthetic.lexicon import EMOTION_SLOTS, Lexicon
from voxstrata.corpora.synthetic.oracle import measure
from voxstrata.corpora.synthetic.partition import split_of
from voxstrata.corpora.synthetic.plan import SynthesisOptions, utterances
from voxstrata.corpora.synthetic.prosody import STEPS, prosody
from voxstrata.corpora.synthetic.voices import BANKS, draw_voices
from voxstrata.errors import CorpusError
from voxstrata.evaluation.score import score
from voxstrata.experiments.tables.corpora import corpus_folder
from voxstrata.experiments.tables.table import CorpusSpec
from voxstrata.inference.recognizer import Recognizer
from voxstrata.labels import EMOTIONS
from whisper_by_hand import real_model

LEXICON = Lexicon.load()
NATURAL = SynthesisOptions(clips=(400, 80, 160), voices=(12, 4, 6), prosody_strength=1.0)
CLEAR = replace(NATURAL, clarity="clear")
DELIVERIES = st.lists(st.floats(-LIMIT, LIMIT), min_size=8, max_size=8).map(np.asarray)


def plan(options, split):
    return list(utterances(options, split, LEXICON))


def everyday_words(lexicon):
    emotional = [*lexicon.emotional.values(), *(g for gs in lexicon.ambiguous.values() for g in gs)]
    groups = [lexicon.ordinary["everyday"], *emotional]
    entries = [
        entry for group in groups for slot, words in group.items() if slot != "emotions" for entry in words
    ]
    fixed = re.sub(r"\{\w+\}|\|", " ", " ".join(lexicon.templates))
    return set(" ".join([fixed, *entries]).split())


@given(DELIVERIES, st.integers(0, 99))
@settings(max_examples=60)
def test_natural_speech_is_told_what_it_was_told_before_there_was_clear_speech(delivery, number):
    voice = draw_voices("train", 1, number)[0]
    rate, pitch, spread, loudness, pauses, tilt, breath, jitter = delivery.tolist()
    told = prosody(voice, delivery)
    assert told.rate_wpm == round(voice.rate_wpm / voice.formant_scale * np.exp(0.10 * rate))
    assert told.pitch_dial == min(100, max(0, round(50 + (voice.pitch + 1.5 * pitch) * 100 / 14)))
    assert told.range_dial == min(100, max(0, round(voice.range_dial * np.exp(0.30 * spread))))
    assert told.word_gap == max(0, round(0.8 * pauses))
    assert told.pause_s == round(float(0.08 * np.exp(0.6 * pauses)), 3)
    assert told.loudness_db == -27.0 + 2.0 * loudness
    assert told.tilt_db == voice.tilt_db + 1.2 * tilt
    assert told.breath_db == min(voice.breath_db + 5.0 * breath, -14.0)
    assert told.jitter == float(0.004 * np.exp(0.6 * jitter))


def test_corpora_of_natural_speech_keep_their_identity_and_clear_ones_have_their_own():
    assert "clarity" not in NATURAL.as_dict() and CLEAR.as_dict()["clarity"] == "clear"
    assert CLEAR.as_dict() == {**NATURAL.as_dict(), "clarity": "clear"}
    synth = {"clips": [480, 120, 300], "voices": [40, 10, 20], "labelled": 1.0, "seed": 1}
    old, clear = (
        corpus_folder("speech", CorpusSpec(synth=options), Path("out"), None)
        for options in (synth, {**synth, "clarity": "clear"})
    )
    # The name that the demo's corpus has had since before there was clear speech.
    assert old.name == "speech-b0dafb7a68" and clear != old


def test_clips_of_both_clarities_may_stand_side_by_side():
    natural, clear = ({clip.id for clip in plan(options, "dev")} for options in (NATURAL, CLEAR))
    assert len(natural) == len(clear) == 80 and not natural & clear


def test_clear_speech_differs_in_words_voices_and_settings_but_not_in_emotions():
    natural, clear = (plan(options, "train") for options in (NATURAL, CLEAR))
    assert [c.intended for c in natural] == [c.intended for c in clear]
    assert [c.labelled for c in natural] == [c.labelled for c in clear]
    drawn = [np.clip(c.delivery - np.asarray(c.voice.habits), -LIMIT, LIMIT) for c in (*natural, *clear)]
    inside = [
        (a, b)
        for a, b in zip(drawn[:400], drawn[400:], strict=True)
        if max(np.abs(a).max(), np.abs(b).max()) < LIMIT - 2
    ]
    assert len(inside) > 5 and all(np.allclose(a, b) for a, b in inside)


@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(2, 60))
@settings(max_examples=30)
def test_voices_of_clear_speech_are_of_its_bank_and_of_their_split(seed, split, count):
    accents, variants = BANKS["clear"]
    voices = draw_voices(split, count, seed, "clear")
    timbres = [voice.id.partition(".")[0].partition("+") for voice in voices]
    assert len({voice.id for voice in voices}) == count
    assert {accent for accent, _, _ in timbres} <= set(accents)
    assert {variant for _, _, variant in timbres} <= set(variants)
    assert {split_of(f"voice {''.join(timbre)}") for timbre in timbres} == {split}
    assert {voice.gender for voice in voices} == {"female", "male"}


def test_clear_sentences_are_short_and_disjoint_between_splits():
    clips = {split: plan(replace(CLEAR, seed=k), split) for k, split in enumerate(SPLITS)}
    for texts in ({s: {c.sentence.carrier for c in found} for s, found in clips.items()},):
        assert not texts["train"] & texts["dev"] and not (texts["train"] | texts["dev"]) & texts["test"]
    lengths = [len(c.sentence.transcript.split()) for found in clips.values() for c in found]
    assert max(lengths) <= 10 and np.mean(lengths) < 7.5


def test_clear_words_are_plain_and_none_is_bookish_or_of_two_emotions():
    clear = LEXICON.of("clear")
    bookish = {w for slot, ws in clear.ordinary["bookish"].items() for e in ws for w in e.split()}
    assert not everyday_words(clear) & bookish - {"in", "at", "with", "as"}
    assert {c for word in everyday_words(clear) for c in word} <= set("abcdefghijklmnopqrstuvwxyz")
    entries = Counter(
        entry
        for slots in clear.emotional.values()
        for entry in {entry for slot in EMOTION_SLOTS for entry in slots[slot]}
    )
    assert set(clear.emotional) == set(EMOTIONS) and all(clear.ambiguous[e] for e in EMOTIONS)
    assert max(entries.values()) == 1
    said = {w for s in SPLITS for c in plan(CLEAR, s) for w in c.sentence.transcript.split()}
    assert said <= everyday_words(clear) and len(said) > 150


def test_all_vocabularies_can_be_had_clearly():
    for vocabulary in ("everyday", "bookish", "free", "any"):
        options = replace(CLEAR, clips=(40, 0, 0), read=True, vocabulary=vocabulary)
        assert len(plan(options, "train")) == 40


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_each_dimension_can_still_be_told_from_a_clear_clip(dimension):
    voice = draw_voices("test", 1, 0, "clear")[0]
    low, high = np.zeros(8), np.zeros(8)
    place = DIMENSIONS.index(dimension)
    low[place], high[place] = -1.5, 1.5
    changed = {
        name
        for name, value in vars(prosody(voice, low, STEPS["clear"])).items()
        if getattr(prosody(voice, high, STEPS["clear"]), name) > value
    }
    assert changed == ({"word_gap", "pause_s"} if dimension == "pauses" else changed) and changed


@given(DELIVERIES, st.integers(0, 99), st.sampled_from(SPLITS))
@settings(max_examples=100)
def test_no_clear_delivery_is_breathy_hoarse_rushed_or_without_gaps(delivery, number, split):
    voice = draw_voices(split, 1, number, "clear")[0]
    told = prosody(voice, delivery, STEPS["clear"])
    assert told.breath_db < -25 and told.jitter < 0.012 and told.word_gap >= 1
    assert 95 < told.rate_wpm * voice.formant_scale < 200
    assert told.tilt_db > -2.5


def test_the_oracles_of_clear_speech_know_its_words_and_its_deliveries():
    both = {strength: replace(CLEAR, lexical_strength=strength) for strength in (0.0, 1.0)}
    silent, telling = (measure(options, LEXICON, fitted=3000, tested=3000) for options in both.values())
    assert abs(silent.words - 0.125) < 0.025
    assert telling.both > max(telling.words, telling.prosody)
    natural = measure(replace(NATURAL, lexical_strength=1.0), LEXICON, fitted=3000, tested=3000)
    # There is no word of two emotions, but for those that are meant to be.
    assert telling.words > natural.words
    assert abs(silent.prosody - natural.prosody) < 0.06
    flat = measure(replace(both[0.0], prosody_strength=0.0), LEXICON, fitted=3000, tested=3000)
    assert abs(flat.prosody - 0.125) < 0.025


def test_an_unknown_clarity_is_refused():
    with pytest.raises(CorpusError, match=r"natural, clear; found 'loud'"):
        SynthesisOptions(clarity="loud")


@pytest.mark.slow
def test_whisper_hears_the_words_of_clear_speech(tmp_path):
    pytest.importorskip("espeakng_loader", reason="the extra synth is not installed")
    whisper = real_model("whisper-tiny.en")
    recognizer = Recognizer.load(whisper)
    errors: dict[str, float] = {}
    for clarity in ("natural", "clear"):
        options = replace(NATURAL, clips=(0, 0, 60), voices=(0, 0, 12), clarity=clarity)
        generate(tmp_path / clarity, options)
        corpus = prepare("synthetic", tmp_path / clarity, tmp_path / clarity, labels=EMOTIONS)
        scored = score(list(recognizer.answers(recognizer.batches_of(corpus, "test").epoch(0))))
        errors[clarity] = scored.transcript.metrics["wer"].value
    assert errors["clear"] < 0.2 < errors["natural"] / 2
