"""Looks at corpora, checkpoints and batches without training: each once, however many runs use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import PretrainedConfig

from voxstrata.backbone.checkpoints import open_checkpoint
from voxstrata.backbone.headers import EncoderHeaders, ExpertHeaders, model_shapes, read_base, read_expert
from voxstrata.backbone.locate import locate
from voxstrata.batches.source import BatchSource
from voxstrata.batches.task_schedule import TaskBatches, TasksInTurn
from voxstrata.config.recipe import Recipe
from voxstrata.errors import CorpusError, VoxstrataError
from voxstrata.experiments.dry_run.corpus_checks import CorpusCheck, check_prepared
from voxstrata.experiments.dry_run.costs import EncoderSizes, Load
from voxstrata.experiments.dry_run.estimate import Loads
from voxstrata.methods.registry import method_of
from voxstrata.methods.task_sources import AnySources, TaskSources
from voxstrata.recipes.reading import read_yaml
from voxstrata.runs import RunFolder

T = TypeVar("T")


class Inspection:
    """Answers that are asked for once; a fault is raised anew each time."""

    def __init__(self) -> None:
        self.corpora: dict[str, CorpusCheck] = {}
        self.encoders: dict[str, str] = {}
        self._known: dict[tuple[Any, ...], Any] = {}

    def corpus(self, path: str) -> CorpusCheck:
        """A prepared corpus, its clips counted and its audio files looked for.

        Raises:
            CorpusError: if it cannot be read, or audio files are missing.
        """
        check = self._once(("corpus", path), partial(check_prepared, path))
        self.corpora[path] = check
        if check.missing:
            raise CorpusError(
                f"{path}: audio files are not there: {check.missing}; put them back, or prepare it again"
            )
        return check

    def base(self, name: str, architecture: str | None) -> EncoderHeaders:
        """A base encoder.

        Raises:
            CheckpointError: see `read_base`.
        """
        headers = self._once(("base", name, architecture), partial(read_base, name, architecture))
        self.encoders[name] = f"{_architecture(headers)}; layout {headers.layout} ({headers.file})"
        return headers

    def coming(self, name: str, config: PretrainedConfig) -> EncoderHeaders:
        """An encoder that is still to be pre-trained: what its recipe tells of it."""

        def described() -> EncoderHeaders:
            return EncoderHeaders(name, Path(name), "none yet", config, model_shapes(config))

        headers = self._once(("coming", name), described)
        self.encoders[name] = f"{_architecture(headers)}; still to be pre-trained"
        return headers

    def checkpoint(self, name: str) -> None:
        """Looks for an expert whose base cannot be read.

        Raises:
            CheckpointError: if it is not here, or in no known layout.
        """
        self._once(("checkpoint", name), lambda: open_checkpoint(locate(name, download=False)).layout)

    def expert(self, name: str, base: EncoderHeaders, normalize: bool | None = None) -> str | None:
        """An expert whose shapes fit a base; gives what it says it was made from.

        Raises:
            CheckpointError: see `read_expert`.
        """
        headers: ExpertHeaders = self._once(
            ("expert", name, base.name, normalize), partial(read_expert, name, base, normalize=normalize)
        )
        self.encoders[f"{name} of {base.name}"] = (
            f"{name}: fits {base.name} in every shape; layout {headers.layout} ({headers.file}); left out: "
            f"{headers.left_out}"
        )
        run = RunFolder(Path(name))
        if run.recipe.is_file():
            stated = read_yaml(run.recipe).get("base")
            return None if stated is None else str(stated)
        return headers.told_base

    def sources(self, recipe: Recipe) -> AnySources:
        """A recipe's batches; runs that read the same clips in the same way share them.

        Raises:
            VoxstrataError: see `Method.sources`.
        """
        return self._once(("sources", *_reading(recipe)), partial(method_of(recipe).sources, recipe))

    def loads(self, recipe: Recipe, sources: AnySources, sizes: EncoderSizes) -> Loads:
        """What the batches of a recipe weigh in an encoder."""
        return self._once(("loads", sizes, *_reading(recipe)), partial(_loads, sources, sizes))

    def _once(self, key: tuple[Any, ...], ask: Callable[[], T]) -> T:
        if key not in self._known:
            try:
                self._known[key] = ask()
            except VoxstrataError as fault:
                self._known[key] = fault
        answer = self._known[key]
        if isinstance(answer, VoxstrataError):
            raise answer
        found: T = answer
        return found


def _architecture(headers: EncoderHeaders) -> str:
    config = headers.config
    return (
        f"{headers.name}: {config.model_type}, {config.num_hidden_layers} layers of {config.hidden_size}, "
        f"{headers.parameters:,} parameters"
    )


def _reading(recipe: Recipe) -> tuple[str, str]:
    """What of a recipe decides its batches: all but what is done with them."""
    own = {"training", "rates", "head", "vectors", "experts", "granularity", "init", "cache_gb", "base"}
    return recipe.system, recipe.model_dump_json(exclude={*own, "allow_leaks"})


def _loads(sources: AnySources, sizes: EncoderSizes) -> Loads:
    def load(source: BatchSource) -> Load:
        return Load.of(sizes, (source.sample_counts(ids) for ids in source.plan(0)))

    def of_each(batches: TaskBatches | TasksInTurn) -> dict[str, Load]:
        return {name: load(source) for name, source in batches.sources.items()}

    if isinstance(sources, TaskSources):
        train, dev = sources.train, sources.dev
        number = train.batches_per_epoch()
        read = {name: number * train.schedule.share(name) for name in train.sources}
        return Loads(
            Load.together(of_each(train), read),
            None if dev is None else Load.together(of_each(dev)),
            {split: Load.together(of_each(source)) for split, source in sources.evaluated.items()},
        )
    return Loads(
        load(sources.train),
        None if sources.dev is None else load(sources.dev),
        {split: load(source) for split, source in sources.evaluated.items()},
    )
