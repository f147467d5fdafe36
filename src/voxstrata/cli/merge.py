"""`voxstrata merge`: checkpoints on disk, merged without training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxstrata.cli.after_merge import next_command
from voxstrata.cli.lines import tell

if TYPE_CHECKING:
    from voxstrata.merging.files import FileMerge
    from voxstrata.merging.plan import Examination
    from voxstrata.merging.request import MergeRequest


FILE = typer.Argument(
    None, help="YAML: merge.yaml of an earlier merge, or a file of mergekit's. Options win over it."
)
BASE = typer.Option(
    None,
    "--base",
    help="What the experts were fine-tuned from: folder, run, packaged name or Hub id. Default: what the "
    "runs among them started from.",
)
VECTORS = typer.Option(
    None,
    "--vector",
    metavar="NAME=PATH:COEFFICIENT",
    help="An expert and its coefficient: a number, a list per layer (0.1,0.2,...), or a CSV file with the "
    "columns layer and coefficient. Repeat it for each expert.",
)
OPTIONS = typer.Option(
    None, "--set", metavar="OPTION=VALUE", help="Option of the method, e.g. density=0.2; may be repeated."
)
STATISTICS = typer.Option(
    None,
    "--statistics",
    metavar="NAME=FILE",
    help="For fisher and regmean: what `voxstrata merge-statistics` measured of each expert. Repeat it.",
)
DTYPE = typer.Option(
    None, "--dtype", help="float32, float16 or bfloat16. Default: the widest of base and experts."
)
PARTS = typer.Option(
    None, "--parts", help="encoder, decoder or all. Default: all that base and experts hold."
)
FOREIGN = typer.Option(False, "--allow-foreign", help="Take experts that do not seem to come from the base.")
CHECK = typer.Option(False, "--check", help="Look at headers only: say what would be merged, write nothing.")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("merge")(merge)


def merge(
    file: Path | None = FILE,
    base: str | None = BASE,
    vectors: list[str] | None = VECTORS,
    method: str | None = typer.Option(None, "--method", help="Merge rule. Default: task-arithmetic."),
    out: Path | None = typer.Option(None, "--out", help="Folder to write; new or empty."),
    options: list[str] | None = OPTIONS,
    statistics: list[str] | None = STATISTICS,
    dtype: str | None = DTYPE,
    parts: str | None = PARTS,
    seed: int | None = typer.Option(None, "--seed", help="Seed of methods that draw at random. Default: 0."),
    allow_foreign: bool = FOREIGN,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an earlier merge in OUT."),
    check: bool = CHECK,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Merge fine-tuned checkpoints with their base, without training and without loading a model.

    Tensors are merged one by one in float64. OUT is a plain transformers folder with the base's own
    tokenizer and settings, a model card and merge.yaml, from which the same merge can be made again. Heads
    of the experts are left out and named. Coefficients are printed as they are used, one for each layer;
    layer 0 is all that stands outside the layers.
    """
    request = _asked(file, base, vectors, method, options)
    changes: dict[str, Any] = {"dtype": dtype, "parts": parts, "seed": seed}
    request = replace(request, **{name: value for name, value in changes.items() if value is not None})
    if statistics:
        from voxstrata.merging.request import named_once, parsed_statistics

        given = named_once([parsed_statistics(text) for text in statistics], "statistics of")
        request = replace(request, statistics={**request.statistics, **given})
    if allow_foreign:
        request = replace(request, allow_foreign=True)
    if check:
        _check(request, as_json)
        return
    if out is None:
        from voxstrata.errors import RecipeError

        raise RecipeError(
            "there is no folder to write to; give --out FOLDER, or --check to look at headers only"
        )
    _write(request, out, overwrite, as_json)


def _write(request: MergeRequest, out: Path, overwrite: bool, as_json: bool) -> None:
    """Merges, and prints what was merged."""
    from voxstrata.cli.progress import bar
    from voxstrata.notebook.merging import merge_with_clips

    with bar("MB") as (_, advance):
        made = merge_with_clips(
            request,
            out,
            overwrite=overwrite,
            progress=lambda done, total, name: advance(done // 10**6, total // 10**6, name),
        )
    _show(made)
    typer.echo(json.dumps(made.as_dict(), indent=2, ensure_ascii=False) if as_json else str(out))
    tell(next_command(out, [expert.path for expert in request.experts.values()]), "")


def _asked(
    file: Path | None,
    base: str | None,
    vectors: list[str] | None,
    method: str | None,
    options: list[str] | None,
) -> MergeRequest:
    """The merge that the command line and a file describe together."""
    from voxstrata.errors import RecipeError
    from voxstrata.merging.request import MergeRequest, named_once, parsed_option, parsed_vector, read_request
    from voxstrata.merging.run_base import chosen_base

    given = named_once([parsed_option(text) for text in options or ()], "option")
    experts = named_once([parsed_vector(text) for text in vectors or ()], "vector")
    if file is None:
        if not experts:
            raise RecipeError(
                "there is no vector; give one or more --vector NAME=PATH:COEFFICIENT, or a YAML file"
            )
        base = chosen_base(base, {name: expert.path for name, expert in experts.items()})
        return MergeRequest(base, experts, method or "task-arithmetic", given)
    request = read_request(file)
    if base is not None:
        request = replace(request, base=base, sha256={})
    if method is not None:
        kept = request.options if method == request.method else {}
        request = replace(request, method=method, options=kept)
    return replace(request, experts={**request.experts, **experts}, options={**request.options, **given})


def _check(request: MergeRequest, as_json: bool) -> None:
    """Prints what headers tell; exits with 2 if it cannot be merged."""
    from dataclasses import asdict

    from voxstrata.merging.plan import examine

    found = examine(request)
    if as_json:
        stated = {
            "can_be_merged": found.plan is not None,
            "findings": [asdict(finding) for finding in found.findings],
            **_expanded(found),
        }
        typer.echo(json.dumps(stated, indent=2, ensure_ascii=False))
    else:
        from voxstrata.cli.lines import one_line

        for line in found.findings:
            typer.echo(one_line(f"{line.level:<8} {line.about:<12} {line.topic:<13} {line.text}"))
        typer.echo("can be merged" if found.plan is not None else "cannot be merged")
    if found.plan is None:
        raise typer.Exit(2)


def _expanded(found: Examination) -> dict[str, Any]:
    if found.plan is None:
        return {}
    coefficients = {name: list(values) for name, values in found.plan.coefficients.items()}
    return {"layers": list(found.plan.groups.labels), "coefficients": coefficients}


def _show(made: FileMerge) -> None:
    """The coefficients as they were used, and what else is to be said, on standard error."""
    from voxstrata.backbone.layouts import describe_left_out
    from voxstrata.cli.lines import one_line

    names = [one_line(name) for name in made.coefficients]
    widths = [max(len(name), 10) for name in names]
    first = max(len("layer"), *map(len, made.layers))
    rows = zip(made.layers, *made.coefficients.values(), strict=True)
    tell("  ".join([f"{'layer':<{first}}", *(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))]), "")
    for label, *values in rows:
        cells = (f"{value:>{width}.6g}" for value, width in zip(values, widths, strict=True))
        tell("  ".join([f"{label:<{first}}", *cells]), "")
    for name, tensors in made.left_out.items():
        tell(f"left out of {name}: {describe_left_out(tensors)}")
    if made.copied:
        tell(f"copied from the base: {describe_left_out(made.copied)}")
    for note in made.notes:
        tell(note)
