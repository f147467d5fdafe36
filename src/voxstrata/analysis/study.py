"""A study of an encoder by probes: each clip is run once, then every target is read from every layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from voxstrata.analysis.clips import chosen_cuts
from voxstrata.analysis.frame_answers import FRAME_TARGETS, PHONEMES, FrameAnswers
from voxstrata.analysis.probes import Examples, probe_classes, probe_numbers
from voxstrata.analysis.result import ProbeStudy, TargetScores
from voxstrata.analysis.states import Collected, collect
from voxstrata.analysis.targets import ProbePlan
from voxstrata.backbone.encoder import SpeechEncoder
from voxstrata.batches.phonemes import phoneme_inventory, read_phonemes
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CorpusError

BATCH_CLIPS = 8
#: Phonemes that training clips speak less often count as unknown.
LEAST_PHONEMES = 20

#: Called with (done, total, what is done).
Progress = Callable[[int, int, str], None]


def study(
    encoder: SpeechEncoder,
    corpus: PreparedCorpus,
    plan: ProbePlan,
    progress: Progress = lambda done, total, text: None,
) -> ProbeStudy:
    """Probes every layer of a frozen encoder.

    Args:
        encoder: frozen, in eval mode; on the device that it is to run on.
        corpus: whose clips they are.
        plan: of this corpus.
        progress: called while clips are run and layers are probed.

    Raises:
        CorpusError: if there are too few phonemes, or no voiced frames.
        CheckpointError: if frames are asked for and the encoder's do not come every 20 ms.
        AudioError: if a recording cannot be decoded.
    """
    options = plan.options
    frame_targets = tuple(name for name in plan.targets if name in FRAME_TARGETS)
    answers = FrameAnswers(encoder, frame_targets) if frame_targets else None
    source = _source(corpus, plan)
    counts = Counter(clip.part for clip in plan.clips.values())
    found = collect(
        encoder,
        source.epoch(0),
        {clip_id: clip.part for clip_id, clip in plan.clips.items()},
        clip_means=bool(plan.parts),
        frame_answers=answers,
        sizes={part: options.max_frames // (1 if part == "train" else 2) for part in counts},
        seed=options.seed,
        advance=lambda done: progress(done, len(source), "running clips"),
    )
    inventory = source.options.phonemes or ()
    targets = tuple(_scores(name, plan, found, inventory, progress) for name in plan.targets)
    return ProbeStudy(targets, counts, (*plan.notes, *(note for t in targets for note in t.notes())))


def _source(corpus: PreparedCorpus, plan: ProbePlan) -> BatchSource:
    """Whole clips, each once, from short to long; decoded audio is not kept."""
    inventory = None
    if PHONEMES in plan.targets:
        training = {name: clip for name, clip in plan.clips.items() if clip.part == "train"}
        cuts = chosen_cuts(corpus, training, plan.options.fold)
        texts = (cut.supervisions[0].custom.get(PHONEMES) or "" for cut in cuts)
        inventory = phoneme_inventory(map(read_phonemes, texts), at_least=LEAST_PHONEMES)
        if len(inventory) < 2:
            raise CorpusError(
                f"the training clips speak {len(inventory)} phonemes {LEAST_PHONEMES} times or more; a probe "
                "of phonemes needs two: take more clips"
            )
    chosen = chosen_cuts(corpus, plan.clips, plan.options.fold)
    return BatchSource(
        chosen, BatchOptions(batch_size=BATCH_CLIPS, shuffle=False, phonemes=inventory, cache_bytes=0)
    )


def _scores(
    name: str,
    plan: ProbePlan,
    found: Collected,
    inventory: tuple[str, ...],
    progress: Progress,
) -> TargetScores:
    examples, resampled = (
        _frame_examples(name, plan, found, inventory)
        if name in FRAME_TARGETS
        else _clip_examples(name, plan, found)
    )
    train, test, dev = examples["train"], examples["test"], examples.get("dev")

    def advance(done: int, total: int) -> None:
        progress(done, total, f"probing {name}")

    options = plan.options
    settings: dict[str, Any] = {"resamples": options.resamples, "seed": options.seed, "advance": advance}
    if name in FRAME_TARGETS and name != PHONEMES:
        scores = probe_numbers(train, test, dev, **settings)
    else:
        measure = "accuracy" if name == PHONEMES else "uar"
        scores = probe_classes(train, test, dev, measure=measure, **settings)
    return TargetScores(
        name=name,
        scores=scores,
        examples={part: len(rows) for part, rows in examples.items()},
        resampled=resampled,
        units=len(np.unique(test.units)),
        classes=() if scores.measure == "r2" else tuple(np.unique(train.answers).tolist()),
    )


def _clip_examples(name: str, plan: ProbePlan, found: Collected) -> tuple[dict[str, Examples], str]:
    rows = {clip_id: row for row, clip_id in enumerate(found.ids)}
    resampled, units = _units(plan, plan.parts[name]["test"])
    return {
        part: Examples(
            states=found.means,
            answers=np.array(list(answers.values())),
            units=np.array([units.get(clip_id, clip_id) for clip_id in answers]),
            rows=np.array([rows[clip_id] for clip_id in answers]),
        )
        for part, answers in plan.parts[name].items()
        if answers
    }, resampled


def _frame_examples(
    name: str, plan: ProbePlan, found: Collected, inventory: tuple[str, ...]
) -> tuple[dict[str, Examples], str]:
    known = {part: sample.known(name) for part, sample in found.frames.items()}
    resampled, units = _units(plan, {found.ids[clip]: "" for clip in known["test"][2].tolist()})
    examples = {}
    for part, (rows, answers, clips) in known.items():
        if not len(answers) and part != "dev":
            raise CorpusError(f"no frame of the {part} clips tells {name}; take more clips or other splits")
        if len(answers):
            names = np.array(inventory)[answers.astype(int)] if name == PHONEMES else answers
            ids = [found.ids[clip] for clip in clips.tolist()]
            speakers = np.array([units.get(clip_id, clip_id) for clip_id in ids])
            examples[part] = Examples(found.frames[part].states, names, speakers, rows)
    return examples, resampled


def _units(plan: ProbePlan, test: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What is resampled, and the speaker of each clip where all test clips tell theirs."""
    speakers = {clip_id: clip.speaker for clip_id, clip in plan.clips.items() if clip.speaker is not None}
    if set(test) <= set(speakers) and len({speakers[clip_id] for clip_id in test}) > 1:
        return "speakers", speakers
    return "clips", {}
