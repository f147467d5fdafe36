"""What every merge of two experts answers, by the experts' own heads: emotions, and words."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from voxstrata.analysis.coefficient_curve import ctc_head_of, emotion_model_of, head_over
from voxstrata.analysis.merge_statistics import measure_statistics
from voxstrata.backbone.encoder import load_backbone
from voxstrata.batches.batch import Batch
from voxstrata.batches.buckets import drawn
from voxstrata.batches.source import BatchOptions, BatchSource
from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.errors import CheckpointError, RecipeError
from voxstrata.experiments.leaks.training_clips import ClipTrace, training_clips_of
from voxstrata.experiments.merge_methods.settings import EMOTIONS, WORDS, Setting
from voxstrata.experiments.run import execute
from voxstrata.inference.path import predict
from voxstrata.merging.files import merge_request
from voxstrata.merging.request import Expert, MergeRequest
from voxstrata.merging.rules.registry import rule_named
from voxstrata.methods.adaltm.recipe import AdaLTMRecipe
from voxstrata.methods.encoder_models import Backbone, Model, MultitaskModel, TranscriptionModel
from voxstrata.methods.model_folder import find_model, load_model
from voxstrata.methods.transcribers.published_whisper import load_transcriber
from voxstrata.predictions import Prediction, read_predictions, write_predictions
from voxstrata.recipes.reading import read_run_recipe
from voxstrata.runs import RunFolder

#: A learned merge with its own heads, and with the experts' heads.
LEARNED, LEARNED_CTC = "learned", "learned-experts-heads"
#: What is asked of a merge: emotions, words by the CTC head, words by Whisper's decoder.
DECODER = "decoder"
#: Folder, beside a merge's answers, of those by heads that were fitted to it.
FITTED = "heads"
_CLIPS_MEASURED = 200


@dataclass(frozen=True)
class Answering:
    """Two experts of a fold, and what their merges are asked.

    Args:
        out: folder of the answers of this fold.
        base: what both were fine-tuned from.
        emotions: run of the expert for emotions.
        words: run of the expert for words, with a CTC head.
        learned: run of a merge with learned coefficients; None: there is none.
        acted: corpus of emotions.
        spoken: corpus of words.
        fold: of the corpus of emotions; None: its own splits.
        transcriber: a whole Whisper whose decoder transcribes; None: not asked.
        decoder_clips: clips that the decoder is asked, at most, drawn by a hash of their ids; None: all.
    """

    out: Path
    base: str
    emotions: str
    words: str
    learned: str | None
    acted: PreparedCorpus
    spoken: PreparedCorpus
    fold: int | None
    transcriber: str | None
    decoder_clips: int | None = None
    _statistics: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Decoded recordings are kept: every merge is asked the same ones.
    _sources: dict[tuple[str, str], BatchSource] = field(default_factory=dict)

    def file(self, name: str, kind: str, split: str) -> Path:
        """Where the answers of a merge lie."""
        return self.out / name / f"{kind}-{split}.jsonl"

    def missing(self, name: str, wanted: Mapping[str, str]) -> dict[str, str]:
        """Of what is wanted (kind -> split), what has no answers yet."""
        return {kind: split for kind, split in wanted.items() if not self.file(name, kind, split).is_file()}

    def answer(self, name: str, setting: Setting, wanted: Mapping[str, str]) -> None:
        """Merges, and writes the answers that are missing.

        Args:
            name: of the setting.
            setting: the merge.
            wanted: kind -> split.

        Raises:
            VoxstrataError: if the experts cannot be merged so.
        """
        missing = self.missing(name, wanted)
        if not missing:
            return
        with TemporaryDirectory(prefix="voxstrata-") as scratch:
            folder = Path(scratch) / "merged"
            merge_request(self._request(setting), folder)
            for kind, split in missing.items():
                self._write(name, kind, split, self._reader(kind, folder))

    def answer_learned(self, wanted: Mapping[str, str]) -> None:
        """Writes the answers of the learned merge that are missing: by its own heads, and by the experts'.

        Raises:
            CheckpointError: if the run holds no merge.
        """
        if self.learned is None:
            return
        missing = {name: self.missing(name, wanted) for name in (LEARNED, LEARNED_CTC)}
        if not any(missing.values()):
            return
        found = find_model(self.learned)
        model = None if found is None else load_model(found)
        if found is None or not isinstance(model, MultitaskModel) or model.merges_per_task:
            raise CheckpointError(
                f"{self.learned} holds no one encoder that was merged for emotions and words; give a run of "
                "adaltm with both tasks and `coefficients: shared`"
            )
        for name, lacking in missing.items():
            for kind, split in lacking.items():
                own = name == LEARNED and kind != DECODER
                self._write(name, kind, split, model if own else self._reader(kind, found / "encoder"))

    def fit_heads(self, name: str, setting: Setting, epochs: int) -> None:
        """Fits both heads to a merge as it is, and writes the answers.

        They are trained by the recipe of the learned merge, without its vectors, from the experts' heads.

        Args:
            name: of the setting.
            setting: the merge.
            epochs: of that training; the encoder stays as it is, so that its states are computed once.

        Raises:
            RecipeError: if there is no learned merge, whose recipe is taken.
        """
        wanted = {EMOTIONS: "test", WORDS: "test"}
        if not self.missing(f"{name}/{FITTED}", wanted):
            return
        folder, run = self.out / name / "merged", RunFolder(self.out / name / FITTED / "run")
        if not (folder / "config.json").is_file():
            merge_request(self._request(setting), folder)
        execute(self._of_heads(folder, epochs), run)
        rows = read_predictions(run.predictions("test"))
        for kind, split in wanted.items():
            asked = [_only(row, kind) for row in rows if _answers(row, kind)]
            write_predictions(self.file(f"{name}/{FITTED}", kind, split), asked)
        # Both can be made again, and take much room.
        shutil.rmtree(folder)
        shutil.rmtree(run.model)

    def _of_heads(self, base: Path, epochs: int) -> AdaLTMRecipe:
        if self.learned is None:
            raise RecipeError("heads are fitted by the recipe of a learned merge; give --learned")
        recipe = read_run_recipe(RunFolder(Path(self.learned)))
        if not isinstance(recipe, AdaLTMRecipe) or set(recipe.tasks) != {"ser", "asr"}:
            raise RecipeError(f"{self.learned} is no merge that learned emotions and words; give one")
        training = recipe.training.model_copy(update={"epochs": epochs, "steps": None})
        # A merge that kept its CTC head as it was has no rate for it.
        rates = recipe.rates.model_copy(update={"asr_head": recipe.rates.asr_head or recipe.rates.head})
        changed = {"base": str(base), "vectors": {}, "training": training, "rates": rates}
        heads = {"ser": self.emotions, "asr": self.words}
        return recipe.model_copy(update={**changed, "start_heads": heads})

    def require_unheard(self, split: str) -> None:
        """Checks that no expert was trained on the clips that it is asked.

        Raises:
            CheckpointError: naming the expert, and what to do.
        """
        for run, corpus, fold in (
            (self.emotions, self.acted, self.fold),
            (self.words, self.spoken, None),
        ):
            uses = training_clips_of(run, "expert").uses
            learned = {
                clip.audio for use, clips in uses.items() if use.stage != "selection" for clip in clips
            }
            for asked in {"test", split if corpus is self.acted else "dev"}:
                both = sum(ClipTrace.of(cut).audio in learned for cut in corpus.stream(asked, fold))
                if both:
                    raise CheckpointError(
                        f"{run} was trained on {both} of the clips of split {asked} of {corpus.name}; "
                        "give experts of several folds, so that each fold is tuned on the others, or ones "
                        "that were not trained on these clips"
                    )

    def _request(self, setting: Setting) -> MergeRequest:
        """The merge, with statistics of the experts where its rule needs them."""
        kind = rule_named(setting.method).statistics
        return MergeRequest(
            base=self.base,
            experts={
                EMOTIONS: Expert(self.emotions, setting.emotions),
                WORDS: Expert(self.words, setting.words),
            },
            method=setting.method,
            options=setting.options,
            dtype="float32",
            statistics={} if kind is None else self._measured(kind),
        )

    def _measured(self, kind: str) -> dict[str, str]:
        """The files of statistics of both experts, measured once on their training clips."""
        if kind not in self._statistics:
            places = {}
            for name, run, corpus, fold in (
                (EMOTIONS, self.emotions, self.acted, self.fold),
                (WORDS, self.words, self.spoken, None),
            ):
                file = self.out / f"{kind}-{name}.safetensors"
                if not file.is_file():
                    measure_statistics(
                        run, [corpus.folder], file, kind=kind, fold=fold, limit=_CLIPS_MEASURED
                    )
                places[name] = str(file)
            self._statistics[kind] = places
        return self._statistics[kind]

    def _reader(self, kind: str, folder: Path) -> Model:
        if kind == DECODER:
            assert self.transcriber is not None
            padded = load_backbone(folder, window="30s", final_norm=True)
            return load_transcriber(self.transcriber, padded)
        return self._head(kind, load_backbone(folder))

    def _head(self, kind: str, encoder: Backbone) -> Model:
        """An expert's head over a merged encoder."""
        if kind == EMOTIONS:
            return head_over(emotion_model_of(self.emotions), encoder)
        return TranscriptionModel(encoder, ctc_head_of(self.words)).eval()

    def _write(self, name: str, kind: str, split: str, model: Model) -> None:
        rows = list(predict(model, self._batches(kind, split)))
        file = self.file(name, kind, split)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(file, [_only(row, kind) for row in rows])

    def _batches(self, kind: str, split: str) -> Iterator[Batch]:
        if (kind, split) not in self._sources:
            corpus, fold = (self.acted, self.fold) if kind == EMOTIONS else (self.spoken, None)
            clips = partial(corpus.stream, split, fold)
            limit = self.decoder_clips if kind == DECODER else None
            found = clips() if limit is None else drawn(clips, limit)
            self._sources[kind, split] = BatchSource(found, BatchOptions(batch_size=8, shuffle=False))
        return self._sources[kind, split].epoch(0)


def _answers(row: Prediction, kind: str) -> bool:
    """Whether a row is of a clip of that corpus."""
    return (row.reference_emotion if kind == EMOTIONS else row.reference_transcript) is not None


def _only(row: Prediction, kind: str) -> Prediction:
    """The part of a row that was asked for."""
    if kind == EMOTIONS:
        return replace(row, path=None, transcript=None, reference_transcript=None)
    return replace(row, path=None, emotion=None, probabilities=None, reference_emotion=None)
