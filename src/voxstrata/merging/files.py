"""Merging of checkpoints on disk, a tensor at a time: from safetensors to safetensors, without a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from voxstrata.backbone.export_folder import CARD
from voxstrata.backbone.folder import CONFIG
from voxstrata.errors import CheckpointError, in_bytes
from voxstrata.merging.card import card, merge_yaml
from voxstrata.merging.plan import MergePlan, examine
from voxstrata.merging.request import MergeRequest
from voxstrata.merging.work import Progress, Work, require_kinship
from voxstrata.runs import require_free, written_whole

#: A merge as it was asked for, beside it: the same can be made again from it.
RECORD = "merge.yaml"


@dataclass(frozen=True)
class FileMerge:
    """A merge that was written.

    Args:
        folder: plain transformers opens it.
        method: name of the rule.
        parts: encoder, decoder or all.
        layers: names of the groups that have a coefficient each.
        coefficients: name of each vector -> one per group.
        options: of the rule, those that were given.
        dtype: of the weights; the widest, where they differ.
        parents: name of each ("base", vectors) -> path, title, published name (see `Parent`), SHA-256 of
            the bytes of each weight file, licence.
        left_out: name of each parent -> its tensors that are not in the merge -> what they are.
        copied: tensors of the merge that are the base's own -> why they are not merged.
        notes: what else was found: warnings begin with "warning: ".
        tensors: how many were written.
        nbytes: of their values.

    Example:
        ``merge.coefficients["asr"]`` are the coefficients of `merge.layers` as they were used.
    """

    folder: Path
    method: str
    parts: str
    layers: tuple[str, ...]
    coefficients: Mapping[str, tuple[float, ...]]
    options: Mapping[str, Any]
    dtype: str
    parents: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, Mapping[str, str]]
    copied: Mapping[str, str]
    notes: tuple[str, ...]
    tensors: int
    nbytes: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "out": str(self.folder),
            "method": self.method,
            "parts": self.parts,
            "layers": list(self.layers),
            "coefficients": {name: list(values) for name, values in self.coefficients.items()},
            "options": dict(self.options),
            "dtype": self.dtype,
            "parents": {name: dict(facts) for name, facts in self.parents.items()},
            "left_out": {name: dict(tensors) for name, tensors in self.left_out.items()},
            "copied": dict(self.copied),
            "notes": list(self.notes),
            "tensors": self.tensors,
            "bytes": self.nbytes,
        }

    def __repr__(self) -> str:
        """One line: where it lies, the method, the vectors with their mean coefficients."""
        means = (f"{name} {sum(values) / len(values):.2f}" for name, values in self.coefficients.items())
        return f"FileMerge({str(self.folder)!r}, {self.method}: {', '.join(means)} (mean coefficients))"


def merge_request(
    request: MergeRequest,
    out: Path,
    *,
    overwrite: bool = False,
    beside: Mapping[str, bytes] | None = None,
    progress: Progress | None = None,
) -> FileMerge:
    """Merges files. The folder appears when all of it is written.

    Args:
        request: what is merged, and how.
        out: new or empty, or an earlier merge that is to be overwritten.
        overwrite: whether an earlier merge is replaced.
        beside: name -> content of further files.
        progress: called before each tensor.

    Raises:
        VoxstrataError: if something cannot be merged, or the folder cannot be written.
    """
    plan = (found := examine(request)).require_plan()
    _require_elsewhere(plan, out)
    _require_replaceable(out, overwrite=overwrite)
    work = Work(plan, progress)
    _require_room(out, work.nbytes)
    if not request.allow_foreign:
        require_kinship(plan)
    warnings = [f"warning: {line.text}" for line in found.findings if line.level == "warning"]
    with written_whole(out, error=CheckpointError) as partial, ThreadPoolExecutor(2) as pool:
        partial.mkdir(parents=True)
        hashes = {name: pool.submit(parent.hashes) for name, parent in plan.parents().items()}
        try:
            for name, statistics in plan.statistics.items():
                statistics.require_weights(hashes[name].result(), name)
            work.write(partial)
            told = {name: future.result() for name, future in hashes.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        _require_same(plan, told)
        merge = _described(plan, out, told, [*warnings, *work.notes()], work.nbytes)
        _write_beside(plan, partial, merge, beside or {})
    return merge


def _require_elsewhere(plan: MergePlan, out: Path) -> None:
    """Refuses a folder that holds an input, or lies in one."""
    place = out.resolve()
    if place == Path.cwd().resolve():
        raise CheckpointError(f"{out} is the current folder; give a folder of its own")
    for parent in plan.parents().values():
        inside = parent.folder.resolve()
        if inside.is_relative_to(place) or any(path.resolve().is_relative_to(place) for path in parent.files):
            raise CheckpointError(
                f"{out} is or holds {parent.given}, which is to be merged; give a folder elsewhere"
            )
        if place.is_relative_to(inside) and parent.place.is_dir():
            raise CheckpointError(
                f"{out} lies in {parent.given}, which is to be merged; give a folder elsewhere"
            )


def _require_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds something else than an earlier merge: it is replaced as a whole."""
    require_free(out, overwrite=overwrite, error=CheckpointError)
    if not out.is_dir():
        return
    held = {path.name for path in out.iterdir()}
    if held and RECORD not in held:
        raise CheckpointError(f"{out} is no earlier merge (it has no {RECORD}); give another folder")
    foreign = [path.name for path in out.iterdir() if path.is_dir() or path.is_symlink()]
    if foreign:
        raise CheckpointError(f"{out} holds {sorted(foreign)[0]}, which is no part of a merge; move it first")


def _require_room(out: Path, nbytes: int) -> None:
    place = out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise CheckpointError(
            f"the merge takes {in_bytes(nbytes)}, and {in_bytes(free)} are free at {place}; free space, or "
            "give another folder or --dtype float16"
        )


def _require_same(plan: MergePlan, found: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses parents that are not those of an earlier merge that is made again."""
    wanted = {"base": plan.request.sha256} | {n: e.sha256 for n, e in plan.request.experts.items()}
    for name, hashes in wanted.items():
        if hashes and dict(hashes) != dict(found[name]):
            raise CheckpointError(
                f"{plan.parents()[name].given} is not the {name} that the file tells of (another "
                "sha256); give "
                "that one, or remove sha256 from the file"
            )


def _described(
    plan: MergePlan, out: Path, hashes: Mapping[str, Mapping[str, str]], notes: list[str], nbytes: int
) -> FileMerge:
    same = [
        f"warning: {one} and {other} hold the same bytes"
        for index, one in enumerate(hashes)
        for other in list(hashes)[index + 1 :]
        if sorted(hashes[one].values()) == sorted(hashes[other].values())
    ]
    parents = {
        name: {
            "path": parent.given,
            "title": parent.title,
            "published": parent.published_name,
            "sha256": dict(hashes[name]),
            "licence": parent.licence,
        }
        for name, parent in plan.parents().items()
    }
    return FileMerge(
        folder=out,
        method=plan.rule.name,
        parts=plan.groups.part,
        layers=plan.groups.labels,
        coefficients=dict(plan.coefficients),
        options=dict(plan.request.options),
        dtype=str(plan.main_dtype()).removeprefix("torch."),
        parents=parents,
        left_out=plan.left_out(),
        copied=plan.copied(),
        notes=tuple(dict.fromkeys([*notes, *same])),
        tensors=len(plan.template.slots),
        nbytes=nbytes,
    )


def _write_beside(plan: MergePlan, folder: Path, merge: FileMerge, beside: Mapping[str, bytes]) -> None:
    """All files but the weights."""
    config = dict(plan.template.config)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = merge.dtype
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in plan.template.copied:
        shutil.copyfile(path, folder / path.name)
    for name, text in plan.template.texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    (folder / CARD).write_text(card(plan, merge.as_dict()), encoding="utf-8")
    record = merge_yaml(plan, merge.as_dict())
    if plan.request.statistics:
        record += yaml.safe_dump({"statistics": dict(plan.request.statistics)}, allow_unicode=True)
    (folder / RECORD).write_text(record, encoding="utf-8")
