"""Merging files from Python, as `voxstrata merge` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from voxstrata.backbone.locate import locate
from voxstrata.merging.coefficients import Given
from voxstrata.merging.files import FileMerge, merge_request
from voxstrata.merging.request import Expert, MergeRequest
from voxstrata.merging.run_base import chosen_base
from voxstrata.runs import TRAINING_CLIPS

#: Folders above a checkpoint in which its list of training clips may lie.
_ABOVE = 3


def merge_files(
    base: str | Path | None,
    vectors: Mapping[str, tuple[str | Path, Given]],
    *,
    out: str | Path,
    method: str = "task-arithmetic",
    dtype: str | None = None,
    parts: str | None = None,
    seed: int = 0,
    allow_foreign: bool = False,
    overwrite: bool = False,
    statistics: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> FileMerge:
    """Merges checkpoints on disk into a folder that plain transformers opens, without loading a model.

    Tensors are read, merged in float64, cast once and written one by one.

    Args:
        base: what the experts were fine-tuned from: a folder or file, packaged name, run or hub id; None:
            what the runs among the experts started from.
        vectors: name -> checkpoint and coefficient: a number, a list with one per layer (0, all outside the
            layers, to L), or the path of a CSV file with the columns layer and coefficient.
        out: new or empty folder, or an earlier merge with `overwrite`.
        method: name of a merge rule, e.g. "ties".
        dtype: float32, float16 or bfloat16; None: the widest that the base and the experts have.
        parts: encoder, decoder or all (of a whole Whisper); None: all that the base and every expert hold.
        seed: of methods that draw at random.
        allow_foreign: take experts that do not seem to come from the base, or expect their input in another
            form.
        overwrite: replace an earlier merge.
        statistics: for fisher and regmean: name of each vector -> file of `voxstrata merge-statistics`.
        options: of the method, e.g. `density=0.2`.

    Returns:
        What was written: folder, expanded coefficients, parents, what was left out, notes.

    Raises:
        VoxstrataError: if something cannot be merged, or the folder cannot be written.

    Example:
        ``vs.merge_files("whisper-tiny.en", {"ser": ("runs/ser", 0.5)}, out="merged", method="ties")``
    """
    request = MergeRequest(
        base=chosen_base(
            None if base is None else str(base), {name: str(path) for name, (path, _) in vectors.items()}
        ),
        experts={name: Expert(str(path), given) for name, (path, given) in vectors.items()},
        method=method,
        options=options,
        dtype=dtype,
        parts=parts,
        seed=seed,
        allow_foreign=allow_foreign,
        statistics={name: str(path) for name, path in (statistics or {}).items()},
    )
    return merge_with_clips(request, Path(out), overwrite=overwrite)


def merge_with_clips(
    request: MergeRequest,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> FileMerge:
    """Merges files, and lists beside them the clips that their parents were trained on.

    Args:
        request: what is merged, and how.
        out: see `merge_files`.
        overwrite: see `merge_files`.
        progress: called with bytes written, bytes in all, and the tensor that is next.

    Raises:
        VoxstrataError: see `merge_files`; also if a list of training clips is broken.
    """
    beside = {}
    sources = [request.base, *(expert.path for expert in request.experts.values())]
    if any(map(_has_list, sources)):
        beside[TRAINING_CLIPS] = _training_clips(request)
    return merge_request(request, out, overwrite=overwrite, beside=beside, progress=progress)


def _has_list(source: str) -> bool:
    """Whether a list of training clips lies in or above a checkpoint; looked for without what reads it."""
    place = locate(source)
    return any((folder / TRAINING_CLIPS).is_file() for folder in (place, *list(place.parents)[:_ABOVE]))


def _training_clips(request: MergeRequest) -> bytes:
    """The list of all parents' training clips, as a file."""
    from voxstrata.experiments.leaks.training_clips import TrainingClips, training_clips_of

    clips: TrainingClips = training_clips_of(request.base, "base")
    for name, expert in request.experts.items():
        clips = clips.with_parent(training_clips_of(expert.path, f"expert {name}"))
    with TemporaryDirectory() as folder:
        clips.write(Path(folder) / TRAINING_CLIPS)
        return (Path(folder) / TRAINING_CLIPS).read_bytes()
