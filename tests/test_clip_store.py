"""What a store of clips gives back is what was put in, wherever the recordings lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxstrata.batches.batch import Reference
from voxstrata.batches.clip_store import BatchClip, ClipStore
from voxstrata.vocabulary import Vocabulary

TEXTS = st.none() | st.text("ab é", min_size=1)
PATHS = st.sampled_from(["a.wav", "/a.wav", "x/a.wav", "/data/x/a.wav", "/data/x/b.wav", "/dåta/x y/a.wav"])
SHARES = st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1))


@st.composite
def clips(draw: st.DrawFn) -> BatchClip:
    """A clip whose id is still empty."""
    path, text = draw(PATHS), draw(TEXTS)
    told = draw(st.sampled_from([path, "tar://elsewhere/a.wav"]))
    classes = draw(st.none() | st.just({"gender": "female"}))
    rated = draw(st.none() | st.just({"valence": 2.5}))
    return BatchClip(
        Reference("", told, draw(TEXTS), draw(TEXTS), text, classes, rated),
        Path(path),
        draw(st.floats(0, 1e5)),
        draw(st.floats(0, 1e5)),
        draw(st.booleans()),
        draw(SHARES),
        draw(SHARES),
        tuple(Vocabulary.of(["ab é"]).encode(text or "")),
        draw(st.none() | st.tuples(st.floats(1, 7), st.floats(1, 7), st.floats(1, 7))),
        draw(st.sampled_from([(), ((0.25, "æ"), (0.5, "_"))])),
    )


@given(st.lists(clips(), max_size=8))
def test_a_store_gives_back_what_was_put_in(drawn: list[BatchClip]) -> None:
    put = {
        f"clip-{number}": replace(clip, reference=replace(clip.reference, id=f"clip-{number}"))
        for number, clip in enumerate(drawn)
    }
    store = ClipStore(Vocabulary.of(["ab é"]))
    for name, clip in put.items():
        store[name] = clip
    assert dict(store) == put
    assert list(store) == list(put)
    assert dict(store.durations_s()) == {name: clip.duration_s for name, clip in put.items()}


def test_a_clip_put_in_again_takes_the_place_of_the_first() -> None:
    first, second = (
        BatchClip(Reference("a", path, None, None, None), Path(path), 0.0, length_s, True)
        for path, length_s in [("/x/a.wav", 1.0), ("/y/longer/a.wav", 2.0)]
    )
    store = ClipStore()
    store["a"] = store["b"] = first
    store["a"] = second
    assert store["a"] == second
    assert store["b"].duration_s == 1.0
    assert list(store) == ["a", "b"]
    with pytest.raises(KeyError):
        store["c"]
