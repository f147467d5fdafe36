"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "voxstrata"

#: A room may import from itself and from rooms named before it.
ROOMS = (
    *("errors", "documents", "labels", "vocabulary", "runs", "predictions", "evaluation"),
    *("config", "audio", "corpora", "batches", "system", "backbone", "merging", "heads", "losses"),
    *("training", "methods", "recipes", "inference", "reporting", "analysis", "experiments", "exporting"),
    *("benchmarks", "notebook", "serving", "cli"),
)
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def room(module: str) -> str | None:
    """The room of a module of this package; None for the package itself and for others."""
    parts = module.split(".")
    return parts[1] if parts[0] == "voxstrata" and len(parts) > 1 else None


def imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and module of every import, also of those inside functions."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found.append((node.lineno, node.module or ""))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_imports_go_one_way():
    wrong = []
    for name, tree in TREES.items():
        here = room(name)
        if here is None:
            continue
        assert here in ROOMS, f"{name}: a room that has no place in the order"
        for line, target in imports(tree):
            there = room(target)
            if there in ROOMS and ROOMS.index(there) > ROOMS.index(here):
                wrong.append(f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_every_import_of_the_package_exists():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("voxstrata."):
                assert node.module in MODULES, f"{name}:{node.lineno} imports {node.module}"


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_no_file_is_over_400_lines(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert lengths
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_function_is_over_60_lines():
    long = [
        f"{MODULES[name].relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION) and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert not long, "\n".join(long)


def test_names_are_nouns_of_the_field():
    forbidden = {"utils", "util", "common", "misc", "core", "helpers", "helper"}
    named = {part for name in MODULES for part in name.split(".")}
    named |= {
        node.name.lower()
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, (*FUNCTION, ast.ClassDef))
    }
    assert not named & forbidden


def unpicklings(tree: ast.AST) -> list[str]:
    """Calls that may build any Python object out of a file, and so run what its author wrote."""
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            origins |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        head, dot, rest = ast.unparse(call.func).partition(".")
        name = origins.get(head, head) + dot + rest
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        unsafe = (
            name in ("pickle.load", "pickle.loads", "pickle.Unpickler")
            or (name in ("torch.load", "torch.serialization.load") and told.get("weights_only") != "True")
            # Of numpy's load `allow_pickle` is the third argument.
            or (name == "numpy.load" and (told.get("allow_pickle", "False") != "False" or len(call.args) > 2))
        )
        found += [f"{call.lineno} {ast.unparse(call)}"] if unsafe else []
    return found


def test_nothing_is_unpickled():
    found = [
        f"{MODULES[name].relative_to(ROOT)}:{call}"
        for name, tree in TREES.items()
        for call in unpicklings(tree)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "unsafe"),
    [
        ("import torch; torch.load(f)", True),
        ("import torch as t; t.load(f, weights_only=False)", True),
        ("from torch import load as read; read(f, weights_only=safe)", True),
        ("import torch; torch.load(f, weights_only=True)", False),
        ("import pickle; pickle.load(f)", True),
        ("from pickle import loads\ndef f(b): return loads(b)", True),
        ("import pickle; pickle.Unpickler(f).load()", True),
        ("import pickle; pickle.dumps(f); json.load(f)", False),
        ("import numpy as np; np.load(f, allow_pickle=True)", True),
        ("from numpy import load; load(f, None, True)", True),
        ("import numpy as np; np.load(f, allow_pickle=False); np.load(f)", False),
    ],
)
def test_calls_that_unpickle_are_known_by_any_name(code, unsafe):
    assert bool(unpicklings(ast.parse(code))) == unsafe


def undocumented(tree: ast.Module, documented: set[str]) -> list[str]:
    """Public functions, classes and methods without a docstring; overridden methods may inherit theirs."""
    missing = []
    for node in tree.body:
        if isinstance(node, FUNCTION) and not node.name.startswith("_") and not ast.get_docstring(node):
            missing.append(f"{node.lineno} {node.name}")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                missing.append(f"{node.lineno} {node.name}")
            for method in node.body:
                inherited = bool(node.bases) and getattr(method, "name", "") in documented
                if isinstance(method, FUNCTION) and not method.name.startswith("_") and not inherited:
                    missing += [] if ast.get_docstring(method) else [f"{method.lineno} {method.name}"]
    return missing


def test_everything_public_has_a_docstring():
    #: Methods of the seam and of what torch asks for: their docstrings stand where they are declared.
    declared = {
        "voxstrata.system": ("System",),
        "voxstrata.backbone.families.family": ("Family",),
        "voxstrata.batches.cached": ("KeptStates",),
        "voxstrata.methods.method": ("Method", "TrainedMethod", "MeasuredMethod"),
        "voxstrata.methods.model_kinds": ("ModelKind",),
    }
    documented = {
        method.name
        for module, names in declared.items()
        for node in TREES[module].body
        if getattr(node, "name", "") in names
        for method in node.body
        if isinstance(method, FUNCTION) and ast.get_docstring(method)
    }
    assert documented >= {"loss", "predict", "parameter_groups", "summary", "features", "states"}
    missing = [
        f"{MODULES[name].relative_to(ROOT)}:{found}"
        for name, tree in TREES.items()
        for found in undocumented(tree, documented)
    ]
    assert not missing, "\n".join(missing)
    empty = [n for n, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    assert not empty, f"modules without a docstring: {empty}"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


HEAVY = (
    "torch",
    "transformers",
    "lhotse",
    "sklearn",
    "scipy",
    "matplotlib",
    "numpy",
    "accelerate",
    "pydantic",
)


@pytest.mark.parametrize(
    "code",
    [
        "import voxstrata; voxstrata.__version__; dir(voxstrata)",
        "import sys; sys.argv = ['voxstrata', '--help']\n"
        "from voxstrata.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code",
    ],
)
def test_help_and_import_load_nothing_heavy(code):
    loaded = python(f"{code}\nimport sys; print('MODULES', *sys.modules)").split("MODULES")[1].split()
    assert "voxstrata" in loaded
    assert not set(HEAVY) & set(loaded)


def test_help_takes_less_than_half_a_second():
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "voxstrata.cli.main", "--help"], capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(cpu_s() for _ in range(5)) < 0.5


def test_public_names_are_there():
    names = (
        "load_backbone SpeechEncoder TaskVector MergedBackbone merge_files FileMerge prepare PreparedCorpus "
        "train Run Recognizer Recognition Prediction embed Embeddings evaluate Scores "
        "compare Comparison parts"
    )
    code = "import voxstrata as vs; print(*[getattr(vs, n).__name__ for n in vs.__all__[:-1]])"
    assert python(code).split() == names.split()


def repository_files() -> list[Path]:
    """Tracked files, and those that would be."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_names_a_place_of_the_machine_it_was_written_on():
    place = re.compile(r"(?<![\w.~$}])/(?:work|home|root|Users|mnt)/[\w.-]+")
    data = "shared" + "/data"
    found = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT).as_posix()
        for number, line in enumerate(text.split("\n"), start=1):
            if place.search(line) or (data in line and name != ".ci/run"):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
