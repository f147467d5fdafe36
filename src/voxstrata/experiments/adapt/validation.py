"""Cross-validation of a candidate: states of all clips once, then a head for each part, by the one loop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from voxstrata.batches.batch import Batch
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.experiments.adapt.candidates import Candidate
from voxstrata.experiments.adapt.clips import LabelledClips, share_of
from voxstrata.inference.path import predict
from voxstrata.labels import LabelSet
from voxstrata.methods.adaltm.merged import MergedBackbone
from voxstrata.methods.adaltm.system import AdaLTM
from voxstrata.methods.building import clip_model
from voxstrata.methods.encoder_models import ClipModel, Model
from voxstrata.methods.frozen_encoder import FrozenLayers
from voxstrata.methods.method import Notify
from voxstrata.methods.registry import method_of
from voxstrata.methods.sources import Sources, batch_options
from voxstrata.predictions import Prediction
from voxstrata.runs import RunFolder
from voxstrata.training.loop import fit


class KeptBatches:
    """The batches of a source with states from memory in the place of audio.

    Args:
        source: whose batches.
        kept: how states come into a batch.
        states: clip -> what is kept of it.
    """

    def __init__(self, source: BatchSource, kept: FrozenLayers, states: Mapping[str, Tensor]) -> None:
        self.source, self.kept, self.states = source, kept, states

    def batches_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.source.batches_per_epoch()

    def epoch(self, index: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first `skip`."""
        for ids in self.source.plan(index)[skip:]:
            batch = replace(
                self.source.without_audio(ids), lengths=torch.tensor(self.source.sample_counts(ids))
            )
            yield self.kept.added(batch, [self.states[name] for name in ids])


class Validation:
    """A candidate with its encoder loaded and the states of all labelled clips.

    Args:
        candidate: what is tried.
        clips: labelled.
        scratch: folder for what the training loop writes; the caller removes it.
        notify: receives lines for the user.

    Raises:
        VoxstrataError: if the encoder cannot be read, or not take some of the clips.
    """

    def __init__(self, candidate: Candidate, clips: LabelledClips, scratch: Path, notify: Notify) -> None:
        self.candidate, self.clips, self.scratch = candidate, clips, scratch
        self.recipe = candidate.recipe
        self.labels = clips.labels
        whole = self._source(range(len(clips.cuts)), shuffle=False)
        sources = Sources(whole, None, {}, self.labels)
        system = method_of(self.recipe).build(self.recipe, sources, notify)  # type: ignore[attr-defined]
        model: ClipModel = system.model
        assert isinstance(model.encoder, MergedBackbone)
        self.encoder = model.encoder
        self.kept = FrozenLayers.of(model)
        self.states: dict[str, Tensor] = {}
        with torch.no_grad():
            for batch in whole.epoch(0):
                found = [state.clone() for state in self.kept.computed(batch)]
                self.states |= {
                    reference.id: state for reference, state in zip(batch.references, found, strict=True)
                }

    def answers(self, parts: Sequence[frozenset[int]], share: float = 1.0) -> list[Prediction]:
        """The answer for each clip from a head that was trained without its part, sorted by id.

        Args:
            parts: see `clips.parts`.
            share: of the training clips of each part that the head learns from.
        """
        rows: list[Prediction] = []
        for number, tested in enumerate(parts):
            trained = share_of(self.clips, set(range(len(self.clips.cuts))) - tested, share)
            rows += self._fitted(trained, tested, self.scratch / f"{share:g}-{number}")
        return sorted(rows, key=lambda row: row.id)

    def _fitted(self, trained: Collection[int], tested: Collection[int], folder: Path) -> list[Prediction]:
        train = self._source(trained, shuffle=True)
        sources = Sources(train, None, {}, self.labels)
        model, weights = clip_model(self.recipe, self.recipe.head, self.encoder, sources, lambda line: None)
        system = AdaLTM(model, weights, self.recipe.rates)
        fit(
            system,
            KeptBatches(train, self.kept, self.states),
            None,
            RunFolder(folder),
            self.recipe.training,
            seed=self.recipe.seed,
        )
        asked = KeptBatches(self._source(tested, shuffle=False), self.kept, self.states)
        return list(predict(system, asked.epoch(0)))

    def _source(self, rows: Collection[int], *, shuffle: bool) -> BatchSource:
        return clip_batches(self.clips, rows, batch_options(self.recipe), self.labels, shuffle=shuffle)


def clip_batches(
    clips: LabelledClips,
    rows: Collection[int],
    options: BatchOptions,
    labels: LabelSet,
    *,
    shuffle: bool = False,
) -> BatchSource:
    """Batches of some of the clips, whole ones."""
    return BatchSource(clips.chosen(rows), replace(options, labels=labels, shuffle=shuffle, crop_s=None))


def as_it_is(model: Model, clips: LabelledClips, options: BatchOptions) -> list[Prediction]:
    """What a model answers as it is, sorted by id."""
    source = clip_batches(clips, range(len(clips.cuts)), options, clips.labels)
    return sorted(predict(model, source.epoch(0)), key=lambda row: row.id)


def baselines(
    clips: LabelledClips, parts: Sequence[frozenset[int]], options: BatchOptions
) -> dict[str, list[Prediction]]:
    """What needs no encoder, on the same parts: the most frequent class; acoustic statistics and an SVM."""
    from voxstrata.methods.baselines.statistics import clip_statistics, support_vector_machine

    source = clip_batches(clips, range(len(clips.cuts)), options, clips.labels)
    references, features = clip_statistics(source.epoch(0))
    place = {reference.id: row for row, reference in enumerate(references)}
    order = [place[cut.id] for cut in clips.cuts]
    features = features[order]
    found: dict[str, list[Prediction]] = {"most frequent class": [], "statistics and SVM": []}
    for tested in parts:
        trained = sorted(set(range(len(clips.cuts))) - tested)
        known = [clips.emotions[row] for row in trained]
        asked = sorted(tested)
        most = max(sorted(set(known)), key=known.count)
        machine = support_vector_machine()
        answers = [most] * len(asked)
        if len(set(known)) > 1:
            answers = machine.fit(features[trained], known).predict(features[asked]).tolist()
        for name, given in (("most frequent class", [most] * len(asked)), ("statistics and SVM", answers)):
            for row, emotion in zip(asked, given, strict=True):
                reference = references[order[row]]
                found[name].append(
                    Prediction(
                        id=reference.id,
                        path=reference.path,
                        speaker=reference.speaker,
                        emotion=emotion,
                        reference_emotion=reference.emotion,
                    )
                )
    return {name: sorted(rows, key=lambda row: row.id) for name, rows in found.items()}
