"""Runs a table: corpora, then every run in topological order, then rows with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from voxstrata.corpora.prepared import PreparedCorpus
from voxstrata.experiments.provenance import commit, machine, now
from voxstrata.experiments.run import execute
from voxstrata.experiments.tables.archive import write_archive
from voxstrata.experiments.tables.corpora import prepare_corpus
from voxstrata.experiments.tables.finished import finished_runs, write_table
from voxstrata.experiments.tables.pieces import Chosen
from voxstrata.experiments.tables.planned_runs import PlannedRun, plan
from voxstrata.experiments.tables.table import Scale
from voxstrata.methods.method import Notify
from voxstrata.runs import folder_lock, is_held
from voxstrata.training.progress import Progress


@dataclass(frozen=True)
class Tick:
    """Progress of a table.

    Args:
        done: steps done of what runs now.
        total: its steps.
        run: what runs now, and which of how many it is.
        detail: its loss, for the eye.
    """

    done: int
    total: int
    run: str
    detail: str = ""


def reproduce(
    chosen: Chosen,
    *,
    out: Path,
    data: Path | None,
    archive: Path | None = None,
    given: Mapping[str, PreparedCorpus] | None = None,
    train: bool = True,
    notify: Notify,
    tick: Callable[[Tick], None],
) -> Path:
    """Runs what is not done yet and writes `tables/NAME-SCALE/` with `table.json` and `report.html`.

    Args:
        chosen: what to run; the table of a piece lies beside that of the whole.
        out: folder for runs, corpora and tables.
        data: root of the corpora's folders, for scales on real recordings.
        archive: file for the answers of all runs shown, see `write_archive`.
        given: corpora that are prepared already, see `given_corpora`.
        train: run what is not done yet; else the table shows the finished runs.
        notify: receives lines for the user.
        tick: receives progress over the whole table.

    Returns:
        The table's folder.

    Raises:
        RecipeError: if the table does not hold, or nothing is finished and nothing may be trained.
    """
    planned = _planned(chosen, out, data, given or {}, notify, tick)
    if train:
        _execute_all([run for runs in planned.values() for run in runs], notify, tick)
    else:
        planned = {title: finished_runs(runs) for title, runs in planned.items()}
    folder = out / "tables" / chosen.name
    write_table(chosen, planned, folder, {"date": now(), "commit": commit(), "machine": machine()})
    if archive is not None:
        write_archive(archive, (run.folder for runs in planned.values() for run in runs))
    return folder


def train_part(
    chosen: Chosen,
    *,
    out: Path,
    data: Path | None,
    given: Mapping[str, PreparedCorpus] | None = None,
    notify: Notify,
    tick: Callable[[Tick], None],
) -> list[Path]:
    """Trains the rows of a piece and what they need; other processes may do other parts.

    What another process is just doing is left to it, and waited for once nothing else can be done. No table
    is written: `reproduce` does that in the end.

    Args:
        chosen: what to run.
        out: folder for runs and corpora, the same for all parts.
        data: root of the corpora's folders, for scales on real recordings.
        given: corpora that are prepared already, see `given_corpora`.
        notify: receives lines for the user.
        tick: receives progress over the part.

    Returns:
        The run folders of the rows.
    """
    of_variants = _planned(chosen, out, data, given or {}, notify, tick)
    planned = [run for runs in of_variants.values() for run in runs]
    _execute_all(planned, notify, tick, patient=True)
    table, scale = chosen.table, chosen.scale
    shown = {member for row in table.shown(scale) for member in table.members(scale, row.run)}
    return list(dict.fromkeys(run.folder.path for run in planned if run.name in shown))


def _planned(
    chosen: Chosen,
    out: Path,
    data: Path | None,
    given: Mapping[str, PreparedCorpus],
    notify: Notify,
    tick: Callable[[Tick], None],
) -> dict[str, list[PlannedRun]]:
    """The runs of each variant of the scale, once its corpora are prepared."""
    return {
        title: plan(chosen.table, variant, _corpora(variant, out, data, given, notify, tick), out)
        for title, variant in chosen.variants.items()
    }


def _corpora(
    scale: Scale,
    out: Path,
    data: Path | None,
    given: Mapping[str, PreparedCorpus],
    notify: Notify,
    tick: Callable[[Tick], None],
) -> dict[str, PreparedCorpus]:
    """The prepared corpora of a scale; several processes that need them prepare them once."""

    def counted(what: str, done: int, total: int) -> None:
        tick(Tick(done, total, what))

    with folder_lock(out / "corpora", waiting=notify):
        return {
            name: given.get(name) or prepare_corpus(name, spec, out / "corpora", data, counted)
            for name, spec in scale.corpora.items()
        }


def _execute_all(
    planned: list[PlannedRun], notify: Notify, tick: Callable[[Tick], None], *, patient: bool = False
) -> None:
    """Trains what is not done yet.

    Args:
        planned: parents before children.
        notify: receives lines for the user.
        tick: receives progress.
        patient: other processes may be doing runs of the same plan: those that are free come first.
    """
    distinct = {run.folder.path: run for run in planned}
    open_runs = {path: run for path, run in distinct.items() if not run.folder.is_complete}
    count = len(open_runs)
    while open_runs:
        run = _free(open_runs) if patient else next(iter(open_runs.values()))
        named = f"run {count - len(open_runs) + 1} of {count}: {run.folder.path.name}"

        def progress(now: Progress, named: str = named) -> None:
            tick(Tick(now.step, now.steps_total, named, f"loss {now.loss:.3f}"))

        execute(
            run.recipe,
            run.folder,
            keyed=True,
            patient=patient,
            notify=partial(_prefixed, notify, run.name),
            progress=progress,
        )
        del open_runs[run.folder.path]


def _free(open_runs: dict[Path, PlannedRun]) -> PlannedRun:
    """Of the runs whose parents are done and that no other process holds, the longest; else the first one.

    The longest ones first, so that all processes end at about the same time.
    """
    free = []
    for run in open_runs.values():
        parents = [Path(source) for _, source in run.facts.built_on]
        if all(_is_done(open_runs, parent) for parent in parents) and not is_held(run.folder.path):
            free.append(run)
    return max(free or [next(iter(open_runs.values()))], key=_length)


def _length(run: PlannedRun) -> tuple[bool, int]:
    """For the order alone: where the encoder's states can be kept, it runs once over the clips."""
    work = run.facts.work
    training = getattr(run.recipe, "training", None)
    return work is None or not work.still, (training.epochs or training.steps or 0) if training else 0


def _is_done(open_runs: dict[Path, PlannedRun], path: Path) -> bool:
    return path not in open_runs or open_runs[path].folder.is_complete


def _prefixed(notify: Notify, name: str, line: str) -> None:
    notify(f"{name}: {line}")
