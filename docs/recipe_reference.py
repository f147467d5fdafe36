"""Recipes and tables as Markdown, from their schemas; meanings come from the classes' docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel

from generate import row, text

#: What a docstring points to in the source.
SOURCE = re.compile(r"\s*\(see `[^`]*`\)")


class Key(NamedTuple):
    """A key of a recipe, as a row of the reference tells it."""

    name: str
    values: str
    default: str
    meaning: str


def meanings(kind: type) -> dict[str, str]:
    """Name -> meaning, from the section `Args:` of a class's docstring and those that it builds on."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        document = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", document, re.DOTALL | re.MULTILINE)
        for entry in re.split(r"\n(?= {4}\w)", section[1] if section else ""):
            name, _, meaning = entry.strip().partition(": ")
            found.setdefault(name, " ".join(meaning.split()).removesuffix("."))
    return found


def summary(kind: type) -> str:
    """A class's docstring up to its section of arguments."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\nArgs:")[0].strip()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The schemas that stand in the type of a field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def values_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    if "$ref" in schema:
        return "keys"
    if "anyOf" in schema:
        return ", ".join(values_of(one, definitions) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "null":
            return "`null`"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number" as kind:
            return f"{'whole number' if kind == 'integer' else 'number'}{bounds(schema)}"
        case "string":
            return "text"
        case "array" if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])} numbers"
        case "array":
            return f"list of {values_of(schema.get('items', {}), definitions)}"
        case "object":
            patterns = schema.get("patternProperties", {})
            inner = schema.get("additionalProperties") or next(iter(patterns.values()), None)
            return f"name: {values_of(inner if isinstance(inner, dict) else {}, definitions)}"
    return "any value"


def bounds(schema: dict[str, Any]) -> str:
    """The limits of a number, where they say more than that it is sensible."""
    # Where a number is read from text first, pydantic names its limits otherwise.
    low, most = schema.get("minimum", schema.get("ge")), schema.get("maximum", schema.get("le"))
    above, end = (
        schema.get(f"exclusive{name}", schema.get(key))
        for name, key in (("Minimum", "gt"), ("Maximum", "lt"))
    )
    high = end if most is None else most
    if high is not None and high < 100 and low is not None:
        below = "below " if most is None else ""
        return f" {low:g} to {below}{high:g}"
    if above is not None:
        return " ≥ 1" if schema["type"] == "integer" else " > 0"
    return f" ≥ {low:g}" if low is not None and low > -100 else ""


def default_of(field: Any) -> str:
    """A default as YAML; "required" without one."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return ""
    return as_yaml(default)


def as_yaml(value: Any) -> str:
    """A value in YAML, in one line, as code."""
    plain = list(value) if isinstance(value, tuple) else value
    written = yaml.safe_dump(plain, default_flow_style=True, width=1000, allow_unicode=True)
    return f"`{written.removesuffix('...' + chr(10)).strip()}`"


def keys(model: type[BaseModel], prefix: str = "", stop: tuple[type, ...] = ()) -> Iterator[Key]:
    """Keys of a schema with dots, and of the schemas in it; those of `stop` have a part of their own."""
    schema = model.model_json_schema()
    told = meanings(model)
    for name, field in model.model_fields.items():
        below = models_in(field.annotation)
        if not below or any(issubclass(one, stop) for one in below):
            values = (
                "as `data.corpora`"
                if below
                else values_of(schema["properties"][name], schema.get("$defs", {}))
            )
            yield Key(f"{prefix}{name}", values, default_of(field), told.get(name, ""))
            continue
        kind = schema["properties"][name].get("type")
        if kind in ("array", "object") or "anyOf" in schema["properties"][name]:
            values = {"array": "list of keys", "object": "name: keys"}.get(kind, "keys, `null`")
            yield Key(f"{prefix}{name}", values, default_of(field), told.get(name, ""))
        inner = {"array": f"{name}[].", "object": f"{name}.NAME."}.get(kind, f"{name}.")
        yield from keys(below[0], f"{prefix}{inner}", stop)


def table(rows: list[Key]) -> str:
    """Keys as a Markdown table."""
    lines = [row("Key", "Default", "Values", "Meaning"), "|---|---|---|---|"]
    lines += [row(f"`{k.name}`", k.default, k.values, text(SOURCE.sub("", k.meaning))) for k in rows]
    return "\n".join(lines) + "\n"


def parts() -> Iterator[tuple[str, str, list[Key]]]:
    """Heading, words and keys of each part of the page of recipes: shared parts, then the methods."""
    from voxstrata.config.data import CorpusUse, Data
    from voxstrata.config.head import HeadOptions
    from voxstrata.config.recipe import BaseRecipe, Recipe
    from voxstrata.config.task_use import TaskUse
    from voxstrata.config.training import Training
    from voxstrata.methods.registry import methods

    shared: tuple[type, ...] = (Data, Training, HeadOptions, TaskUse)
    system = Key("system", ", ".join(f"`{name}`" for name in own_methods(methods())), "required",
                 "the method; decides which other keys there are")  # fmt: skip
    plain = [key for key in keys(Recipe, stop=shared) if key.name != "data"]
    yield "Every recipe", summary(Recipe), [system, *plain]
    yield "data", summary(Data), list(keys(Data, "data."))
    yield "training", summary(Training), list(keys(Training, "training."))
    based = [key for key in keys(BaseRecipe, stop=shared) if key.name in BaseRecipe.__annotations__]
    yield "Base encoder", summary(BaseRecipe), based
    yield "head", summary(HeadOptions), list(keys(HeadOptions, "head."))
    yield "tasks", summary(TaskUse), list(keys(TaskUse, "tasks.NAME.", (CorpusUse,)))
    for name, method in own_methods(methods()).items():
        model = method.recipe
        common = {"system", *Recipe.model_fields}
        common |= set(BaseRecipe.__annotations__) if issubclass(model, BaseRecipe) else set()
        taken = {part: field.annotation for part, field in model.model_fields.items()
                 if any(issubclass(one, shared) for one in models_in(field.annotation))}  # fmt: skip
        links = ["[every recipe](#every-recipe)", *(f"[{part}](#{part})" for part in sorted(taken))]
        links += ["[base encoder](#base-encoder)"] * issubclass(model, BaseRecipe)
        own = [key for key in keys(model, stop=shared)
               if key.name.split(".")[0] not in common | set(taken)]  # fmt: skip
        yield name, f"{summary(model)}\n\nAlso: {', '.join(links)}.", own


def own_methods(known: Any) -> dict[str, Any]:
    """The methods of this package, without those of installed plug-ins."""
    return {
        name: method for name, method in known.items() if type(method).__module__.startswith("voxstrata.")
    }


def paragraphs(words: str) -> str:
    """A docstring's words as Markdown, without what it points to in the source."""
    return "\n\n".join(text(part) for part in re.split(r"\n\s*\n", SOURCE.sub("", words)))


def recipes_page() -> str:
    """Every key of every recipe."""
    lines = [
        "# Recipes\n",
        "A recipe says in YAML what one run trains, on which corpora and how. `voxstrata train RECIPE` takes "
        "a file or the name of a [packaged recipe](packaged.md).\n",
        "- `KEY=VALUE` on the command line overrides a recipe key; dots nest, and values are read as YAML.\n"
        "- YAML is read as version 1.2 defines it: `1e-3` is a number; `yes`, `no`, `2:30` and `2026-11-30` "
        "are texts. `KEY=null` removes a value.\n"
        "- Unknown keys, duplicate keys and wrong values are refused, all in one message.\n"
        "- Paths are relative to the current folder. The run folder's `recipe.yaml` is the resolved recipe.\n"
        "- The defaults below hold where a recipe says nothing. With `defaults: fit`, as in most packaged "
        "recipes, they come from the [table of defaults](defaults.md) instead.\n",
    ]
    for heading, words, rows in parts():
        lines += [f"## {heading}\n", f"{paragraphs(words)}\n", table(rows) if rows else ""]
    return "\n".join(lines)


def tables_page() -> str:
    """Every key of a table of experiments, and the options of synthetic speech."""
    from voxstrata.corpora.synthetic.plan import SynthesisOptions
    from voxstrata.experiments.tables.table import Table

    told = meanings(SynthesisOptions)
    synth = [
        Key(field.name, type(field.default).__name__, as_yaml(field.default), told.get(field.name, ""))
        for field in fields(SynthesisOptions)
    ]
    names = {"tuple": "three numbers", "int": "whole number", "float": "number, 0 to 1", "str": "text",
             "bool": "`true`, `false`"}  # fmt: skip
    synth = [key._replace(values=names[key.values]) for key in synth]
    return "\n".join(
        [
            "# Tables of experiments\n",
            "How tables work and an example: [tables of experiments](../experiment-tables.md).\n",
            "## Keys of a table\n",
            f"{paragraphs(summary(Table))}\n",
            table(list(keys(Table))),
            "## Synthetic speech\n",
            "Keys of `scales.NAME.corpora.NAME.synth`, as of "
            "[corpus synth](commands.md#voxstrata-corpus-synth).\n",
            table(synth),
        ]
    )


def packaged_page() -> str:
    """Every packaged recipe and table, with what its first lines say."""
    from voxstrata.experiments.tables.table import read_table_spec
    from voxstrata.recipes.reading import TABLES, packaged

    def about(path: Path) -> str:
        comments = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))[0]  # type: ignore[index]
        # What ends in a colon leads to an example, which the page leaves out.
        parts = re.split(r"(?:^#   .*\n)+", comments, flags=re.MULTILINE)
        words = (" ".join(line.lstrip("# ") for line in part.splitlines()) for part in parts)
        return text(" ".join(re.sub(r"(?<=\.)\s[^.]*:$", "", part) for part in words))

    lines = ["# Packaged recipes and tables\n", "## Recipes\n"]
    lines += ["For `voxstrata train` and `voxstrata pretrain`; the files lie in `src/voxstrata/recipes/`.\n"]
    lines += [row("Recipe", "What it does"), "|---|---|"]
    lines += [row(f"`{name}`", about(path)) for name, path in packaged().items()]
    lines += ["\n## Tables\n", "For `voxstrata reproduce TABLE --scale SCALE`.\n"]
    for name, path in packaged(TABLES).items():
        lines += [f"### {name}\n", f"{about(path)}\n", row("Scale", "Note"), "|---|---|"]
        scales = read_table_spec(name).scales
        lines += [row(f"`{scale}`", text(found.note) or "-") for scale, found in scales.items()]
        lines.append("")
    return "\n".join(lines)


def defaults_page() -> str:
    """What `defaults: fit` fills in, for each kind of base encoder."""
    from voxstrata.methods.fits import SIZES, TABLE

    titles = {"whisper": "Whisper", "wav2vec2": "WavLM, wav2vec 2.0, HuBERT"}
    heads = [
        "Family",
        "Size",
        "encoder, SER",
        "head, SER",
        "encoder, ASR",
        "head, ASR",
        "head, frozen encoder",
    ]
    rows = [
        row(titles[family], size, *(f"{rate:.1e}" for rate in rates), f"{fit.crop_s:g}",
            "short runs" if fit.measured else "common values")
        for family, sizes in TABLE.items()
        for size, fit in sizes.items()
        for rates in [(fit.ser_encoder, fit.head, fit.asr_encoder, fit.ctc_head, fit.frozen_head)]
    ]  # fmt: skip
    fit = next(iter(next(iter(TABLE.values())).values()))
    same = {
        "training.warmup": fit.warmup,
        "data.smoothing": fit.smoothing,
        "data.batch_size": fit.batch_size,
        "head.dropout": fit.head_options["dropout"],
        "rates.layer_weights": fit.layer_weights,
        "rates.coefficients": fit.coefficients,
    }
    limits = ", ".join(f"{size} up to {most:g} million" for size, most in SIZES.items())
    return "\n".join(
        [
            "# Defaults that fit the base\n",
            "Most packaged recipes have the key `defaults: fit`: values that neither recipe nor command line "
            "give depend on the base encoder, since rates that suit WavLM-Large leave a small encoder "
            "untrained, and the other way round destroy it. The run folder's `recipe.yaml` has all values. "
            "`defaults=null` brings the fixed defaults of [recipes](recipes.md) back.\n",
            row(*heads, "`data.crop_s`, SER", "From"),
            f"|{'---|' * (len(heads) + 2)}",
            *rows,
            "",
            "Columns are learning rates: `rates.encoder` and `rates.head`. SER is `finetune-ser`, ASR is "
            "`finetune-asr` and `multitask`, a frozen encoder is `adaltm` and `late-fusion`, which have "
            "`data.crop_s` 15.\n",
            f"For all: {', '.join(f'`{key}` {value:g}' for key, value in same.items())}, `training.schedule` "
            "linear, `head.form` d with `head.normalize_layers`.\n",
            f"Size counts the parameters of the encoder's layers: {limits}, else large. It is read from "
            "`config.json`, or from the name of a base that is not downloaded yet.\n",
        ]
    )


def leaks_page() -> str:
    """Names of leaks."""
    from voxstrata.config.leaks import FIT, MATCHES, SPLITS, STAGES

    return "\n".join(
        [
            "# Leaks\n",
            "Before a run is trained, its dev and test clips are compared with everything that it and its "
            "parents (base, experts) were trained on. A match is refused unless `allow_leaks` names it: "
            "STAGE/SPLIT/MATCH, such as `fine-tuning/test/speaker`.\n",
            row("STAGE", "The clip, or a match of it, was used before"),
            "|---|---|",
            *(row(f"`{stage}`", meaning) for stage, meaning in STAGES.items()),
            "",
            row("MATCH", "Meaning"),
            "|---|---|",
            *(row(f"`{match}`", meaning) for match, meaning in MATCHES.items()),
            "",
            f"SPLIT is {', '.join(f'`{split}`' for split in SPLITS)}, or `{FIT}`: the clips that "
            "coefficients and head are trained on, compared with the experts' training clips where "
            "`fit_on` is `heldout`.\n",
            "Each run keeps the list of its training clips (`training_clips.jsonl.gz`: ids, speakers, hashes "
            "of audio and sentences, those of its parents too) and what was found (`leaks.json`, shown in "
            "the report). Reported without refusal: sentences that training and test share, clips that two "
            "stages share, test clips that selected a parent's weights, and what cannot be verified (clips "
            "without speaker, models without a list, such as published ones).\n",
        ]
    )
