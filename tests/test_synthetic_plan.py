from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxstrata.corpora.clip import SPLITS
from voxstrata.corpora.synthetic.delivery import DIMENSIONS, draw_delivery
from voxstrata.corpora.synthetic.lexicon import EMOTION_SLOTS, Lexicon
from voxstrata.corpora.synthetic.oracle import measure
from voxstrata.corpora.synthetic.partition import generator, split_of
from voxstrata.corpora.synthetic.plan import KINDS, SynthesisOptions, utterances
from voxstrata.corpora.synthetic.raters import draw_votes
from voxstrata.corpora.synthetic.voices import FEMALE, Voice, draw_voices
from voxstrata.errors import CorpusError
from voxstrata.labels import EMOTIONS

LEXICON = Lexicon.load()
SMALL = SynthesisOptions(clips=(400, 80, 160), voices=(12, 4, 6))


def plan(options, split):
    return list(utterances(options, split, LEXICON))


def words(*groups):
    return {
        word
        for group in groups
        for slot, entries in group.items()
        if slot != "emotions"
        for entry in entries
        for word in entry.split()
    }


def test_the_vocabularies_are_wide_and_share_no_content_word():
    everyday, bookish = words(LEXICON.ordinary["everyday"]), words(LEXICON.ordinary["bookish"])
    emotional = words(*LEXICON.emotional.values(), *(g for gs in LEXICON.ambiguous.values() for g in gs))
    function_words = {"in", "at", "with", "as"}
    assert len(everyday) > 400 and len(bookish) > 400 and len(LEXICON.vocabulary()) > 1000
    assert not everyday & bookish
    assert not (everyday | bookish) & emotional - function_words
    fixed = words({"templates": [t.replace("|", "") for t in LEXICON.templates]})
    assert not fixed & (everyday | bookish | emotional) - function_words


def test_every_emotion_has_words_for_every_slot_and_no_word_is_exclusive_to_two():
    counts = Counter(
        entry
        for slots in LEXICON.emotional.values()
        for entry in {entry for slot in EMOTION_SLOTS for entry in slots[slot]}
    )
    assert set(LEXICON.emotional) == set(EMOTIONS) and all(LEXICON.ambiguous[e] for e in EMOTIONS)
    assert max(counts.values()) == 1


def test_transcripts_hold_only_letters_and_spaces():
    for vocabulary in ("everyday", "bookish", "free", "any"):
        for clip in plan(replace(SMALL, read=True, vocabulary=vocabulary), "train"):
            assert set(clip.sentence.transcript) <= set("abcdefghijklmnopqrstuvwxyz ")
            assert "  " not in clip.sentence.transcript


def test_voices_accents_and_sentences_are_disjoint_between_splits_of_corpora_with_different_seeds():
    clips = {split: plan(replace(SMALL, seed=k), split) for k, split in enumerate(SPLITS)}
    for kind in (
        lambda c: c.voice.id,
        lambda c: c.voice.id.partition(".")[0],
        lambda c: c.sentence.carrier,
        lambda c: c.sentence.transcript,
    ):
        found = [{kind(clip) for clip in clips[split]} for split in SPLITS]
        assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]


def test_emotion_words_are_shared_between_splits():
    large = SynthesisOptions(clips=(2000, 0, 1000))
    train, test = (
        {w for c in plan(large, s) for w in c.sentence.transcript.split()} for s in ("train", "test")
    )
    emotional = words(*LEXICON.emotional.values(), *(g for gs in LEXICON.ambiguous.values() for g in gs))
    assert len(test & emotional) > 120 and len(test & emotional - train) <= 3


@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(1, 90))
@settings(max_examples=30, deadline=None)
def test_drawn_voices_are_distinct_belong_to_the_split_and_are_half_women(seed, split, count):
    voices = draw_voices(split, count, seed)
    assert len({voice.id for voice in voices}) == count
    assert {split_of(f"voice {voice.id.partition('.')[0]}") for voice in voices} == {split}
    assert sum(v.id.partition(".")[0].partition("+")[2] in FEMALE for v in voices) == (count + 1) // 2
    assert voices[0] == Voice.of(voices[0].id)


def test_seventy_test_voices_can_be_had_with_many_clips_each():
    clips = plan(SynthesisOptions(clips=(0, 0, 700), voices=(0, 0, 70)), "test")
    assert Counter(Counter(clip.voice.id for clip in clips).values()) == {10: 70}


@given(st.integers(0, 2**31), st.sampled_from(EMOTIONS))
@settings(max_examples=40, deadline=None)
def test_at_strength_0_words_and_delivery_are_the_same_whatever_the_emotion(seed, emotion):
    draws = [LEXICON.draw(generator(seed), split="dev", emotion=e, strength=0.0) for e in (emotion, "anger")]
    assert draws[0] == draws[1]
    habits = tuple(np.linspace(-1, 1, len(DIMENSIONS)))
    first, second = (draw_delivery(generator(seed), e, 0.0, habits) for e in (emotion, "anger"))
    assert np.array_equal(first, second)


def test_at_strength_1_the_words_are_always_of_the_emotion():
    clips = plan(replace(SMALL, lexical_strength=1.0), "train")
    assert {c.sentence.lexical_emotion == c.intended for c in clips if c.sentence.lexical_emotion} == {True}


def test_a_fifth_of_the_train_clips_of_each_emotion_carries_a_label():
    clips = plan(replace(SMALL, clips=(800, 80, 160)), "train")
    assert Counter(c.intended for c in clips) == dict.fromkeys(EMOTIONS, 100)
    assert Counter(c.intended for c in clips if c.labelled) == dict.fromkeys(EMOTIONS, 20)
    assert all(bool(c.votes) == c.labelled for c in clips)
    assert all(c.labelled for split in ("dev", "test") for c in plan(SMALL, split))


def test_votes_are_a_noisy_picture_of_the_intended_emotion():
    votes = [draw_votes(generator("t", i), EMOTIONS[i % 8], 5) for i in range(2000)]
    assert {sum(v.values()) for v in votes} == {5}
    share = np.mean([v.get(EMOTIONS[i % 8], 0) / 5 for i, v in enumerate(votes)])
    plurality = np.mean([next(iter(v)) == EMOTIONS[i % 8] for i, v in enumerate(votes)])
    assert 0.55 < share < 0.75 and share < plurality < 0.97


def test_oracles_at_the_default_dials():
    oracles = measure(SynthesisOptions(), LEXICON)
    assert abs(oracles.words - 0.45) < 0.03
    assert abs(oracles.prosody - 0.55) < 0.04
    assert abs(oracles.both - 0.75) < 0.03


def test_oracles_of_the_negative_controls_are_at_chance():
    # The standard error of a UAR of 1/8 over 3,000 clips is .006.
    silent = measure(
        SynthesisOptions(lexical_strength=0, prosody_strength=0), LEXICON, fitted=3000, tested=3000
    )
    assert max(abs(value - 0.125) for value in (silent.words, silent.prosody, silent.both)) < 0.025
    no_words = measure(SynthesisOptions(lexical_strength=0), LEXICON, fitted=3000, tested=3000)
    assert abs(no_words.words - 0.125) < 0.025 and no_words.prosody > 0.45
    assert abs(no_words.both - no_words.prosody) < 0.03


def test_the_read_corpora_differ_in_their_factor_only():
    read = {
        (p, v): plan(replace(SMALL, read=True, prosody=p, vocabulary=v), "train")
        for p in ("emotional", "neutral")
        for v in ("everyday", "bookish")
    }
    acted = plan(SMALL, "train")
    for clips in read.values():
        assert [c.voice.id for c in clips] == [c.voice.id for c in acted]
        assert not any(c.labelled or c.votes for c in clips)
    texts = {key: [c.sentence.text for c in clips] for key, clips in read.items()}
    assert texts["emotional", "everyday"] == texts["neutral", "everyday"]
    assert texts["emotional", "bookish"] == texts["neutral", "bookish"]
    same = [
        np.array_equal(a.delivery, b.delivery)
        for a, b in zip(*(read["emotional", v] for v in ("everyday", "bookish")), strict=True)
    ]
    assert all(same)
    assert {c.intended for c in read["neutral", "everyday"]} == {"neutral"}
    assert {c.sentence.lexical_emotion for c in read["neutral", "bookish"]} == {None}
    agreement = np.mean([c.sentence.lexical_emotion == c.intended for c in read["emotional", "everyday"]])
    assert agreement < 0.2


@pytest.mark.parametrize(
    "bad",
    [
        {"lexical_strength": 1.1},
        {"prosody_strength": -0.1},
        {"labelled": 2.0},
        {"clips": (0, 0, 0)},
        {"clips": (-1, 0, 5)},
        {"voices": (0, 1, 1)},
        {"raters": 0},
        {"prosody": "sad"},
        {"vocabulary": "french"},
        *(
            {"clips": odd}
            for odd in ((1, 2), (1, 2, 3, 4), (1, 2, "3"), (1, 2, 0.5), (1, 2, True), 3.5, None)
        ),
        *({"voices": odd} for odd in ((1, 2), (1, 2, [3]), "abc", {}, (1, 2, 10**400))),
        *({"seed": odd} for odd in (-1, 1.5, "1", None, True, 10**400, [1])),
        *({"raters": odd} for odd in ("5", 2.5, None)),
        *({"labelled": odd} for odd in ("1", None, [0.5], True, float("nan"))),
        *({"read": odd} for odd in (1, "true", None)),
        *({"vocabulary": odd} for odd in (None, ["everyday"], 3, {})),
        *({"clarity": odd} for odd in (None, ["clear"], {})),
    ],
)
def test_impossible_options_are_refused(bad):
    with pytest.raises(CorpusError) as caught:
        SynthesisOptions(**bad)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_spoken_numbers_are_few_words_and_no_sentence_of_another_split():
    options = SynthesisOptions(
        clips=(60, 20, 20), voices=(4, 2, 2), read=True, prosody="neutral", vocabulary="numbers"
    )
    said = {split: {one.sentence.text for one in plan(options, split)} for split in SPLITS}
    spoken = {word for texts in said.values() for text in texts for word in text.split()}
    assert 20 < len(spoken) <= 9 + 10 + 8 + 12 + len({"zero", "oh", "thousand", "hundred"})
    assert not (said["train"] & said["test"]) and not (said["dev"] & said["test"])
    # What "any" draws from has not changed: corpora of earlier versions come out the same.
    assert KINDS == ("everyday", "bookish", "free")
