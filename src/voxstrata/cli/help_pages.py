"""Help: commands in groups, in the order of use, and an example of each."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from voxstrata.cli.program import program
from voxstrata.errors import VoxstrataError, did_you_mean

#: Title -> commands, in the order in which a newcomer needs them.
GROUPS = {
    "Start here": ("demo", "doctor"),
    "Corpora": ("corpus",),
    "Train, merge, hand on": (
        *("train", "adapt", "pretrain", "merge", "merge-statistics", "inspect", "export", "push"),
    ),
    "Answer and score": ("predict", "embed", "serve", "evaluate", "compare", "convert", "report"),
    "Experiments": ("reproduce", "compare-merges", "curve", "probe", "prompts", "bench"),
}
#: Command -> what one might type.
EXAMPLES = {
    "demo": "voxstrata demo",
    "doctor": "voxstrata doctor",
    "corpus list": "voxstrata corpus list",
    "corpus download": "voxstrata corpus download ravdess --accept-licence",
    "corpus prepare": "voxstrata corpus prepare table calls.csv prepared/calls",
    "corpus synth": "voxstrata corpus synth speech --minutes 10 --clarity clear",
    "corpus shar": "voxstrata corpus shar prepared/calls shards/calls",
    "train": "voxstrata train finetune-ser data.corpora=prepared/calls --limit 50",
    "adapt": "voxstrata adapt runs/finetune-ser --data calls.csv --out runs/mine",
    "pretrain": "voxstrata pretrain pretrain-tiny data.corpora=speech --out runs/tiny",
    "merge": "voxstrata merge --base whisper-tiny.en --vector ser=runs/finetune-ser:0.5 --out merged",
    "merge-statistics": "voxstrata merge-statistics runs/ser --corpus prepared/calls --out ser.safetensors",
    "inspect": "voxstrata inspect runs/finetune-ser --base whisper-tiny.en",
    "export": "voxstrata export runs/adaltm my-encoder --as encoder",
    "push": "voxstrata push my-encoder my-name/my-encoder --private",
    "predict": "voxstrata predict call.wav recordings/ --model runs/finetune-ser",
    "embed": "voxstrata embed recordings/ --model runs/finetune-ser --out vectors.npz",
    "serve": "voxstrata serve --model runs/adaltm",
    "evaluate": "voxstrata evaluate runs/finetune-ser",
    "compare": "voxstrata compare runs/finetune-ser runs/adaltm",
    "convert": "voxstrata convert funasr output.jsonl --references calls.csv --out theirs.jsonl",
    "report": "voxstrata report runs/finetune-ser",
    "reproduce": "voxstrata reproduce adaltm --scale demo",
    "compare-merges": "voxstrata compare-merges out --emotion-expert runs/ser --words-expert runs/asr "
    "--emotions prepared/calls --words prepared/an4",
    "curve": "voxstrata curve runs/finetune-ser --emotions prepared/calls --words prepared/an4",
    "probe": "voxstrata probe whisper-tiny.en --corpus prepared/calls --target emotion",
    "prompts": "voxstrata prompts runs/harmonifuse --corpus prepared/calls",
    "bench attention": "voxstrata bench attention --shape base --clips 5,20",
    "bench lambda-step": "voxstrata bench lambda-step --shape base",
    "bench cached": "voxstrata bench cached --shape base --epochs 20",
    "bench harmonifuse": "voxstrata bench harmonifuse --shape base",
    "bench merge-files": "voxstrata bench merge-files --mergekit mk/bin/python",
    "bench predict": "voxstrata bench predict --model runs/joint --audio recordings --threads 1",
}


class Grouped(TyperGroup):
    """Commands whose help shows them in `GROUPS`, each with its whole first sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Reads the options before a command; without anything the help is shown, with exit code 2."""
        if not args:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is asked for.

        Raises:
            VoxstrataError: if there is none of that name.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            group = "" if ctx.parent is None else f" {ctx.info_name}"
            names = self.list_commands(ctx)
            raise VoxstrataError(
                f"there is no command {args[0]!r}{did_you_mean(args[0], names)}; the commands are "
                f"{', '.join(names)}; see {program()}{group} -h"
            )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the groups; one that stands in none comes last."""
        ordered = [name for names in GROUPS.values() for name in names if name in self.commands]
        return [*ordered, *(name for name in self.commands if name not in ordered)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the groups."""
        names = self.list_commands(ctx)
        titled = {title: [n for n in found if n in names] for title, found in GROUPS.items()}
        grouped = {name for found in titled.values() for name in found}
        titled["Others" if grouped else "Commands"] = [name for name in names if name not in grouped]
        width = max(map(len, names), default=0)
        for title, found in titled.items():
            if found:
                with formatter.section(title):
                    rows = [(n.ljust(width), self.commands[n].get_short_help_str(limit=500)) for n in found]
                    formatter.write_dl(rows)


def with_examples(app: typer.Typer, path: tuple[str, ...] = ()) -> None:
    """Puts an example below each command's help, and has the groups in it show their commands whole."""
    for command in app.registered_commands:
        if example := EXAMPLES.get(" ".join([*path, command.name or ""])):
            command.epilog = f"\b\nExample:\n  {example}"
    for group in app.registered_groups:
        assert group.typer_instance is not None
        group.cls = Grouped
        with_examples(group.typer_instance, (*path, group.name or ""))
