"""Mutations, each a function of a random generator: of bytes, of a document's values, of a table's cells."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import yaml

#: What stands in the place of a value; NaN and infinite numbers are written as Python does.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1e-308, 1e308, 1e38, -1e38, 2**31, 2**63, -(2**63), 10**400,
    float("nan"), float("inf"), -float("inf"), [], {}, [None], [[]], {"": None}, {"a": {"a": {}}}, [1, 2, 3],
    ["a", "a"], [float("nan")], "", " ", "-", ".", "..", "../../x", "/etc/passwd", "/", "~", "a\0b", "a\nb",
    "a\tb", "\ud800", "\u2028", "\ufeff", "NaN", "null", "1e999", "é" * 50, "x" * 100_000, "--help", "%s{}",
    "\x1b[31m", "C:\\x", "file://x",
)  # fmt: skip
#: What stands in the place of a cell.
CELLS = (
    *(value if isinstance(value, str) else json.dumps(value) for value in VALUES),
    '"', '""', '"a', 'a"b', "'", ",", "\t", "\r", "a,b", "0x10", "1_000", "１", "-0", "+1", "1e5", "nan",
    "inf",
)  # fmt: skip
#: Whole numbers for the fields of binary headers.
EXTREMES = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 10**6)

#: So deep a value is found to be changed.
_DEEPEST = 30

Path = tuple[Any, ...]


def bytes_mutated(data: bytes, rng: Random, *, header: int = 512) -> bytes:
    """One to four changes to bytes, most in the first `header` ones, where formats tell their sizes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_OF_BYTES)(data, rng, header)
    return data


def recording_mutated(data: bytes, rng: Random, behind: bytes) -> bytes:
    """As `bytes_mutated`; now and then it has a hole instead, or another recording behind what is left of it.

    Args:
        data: of a recording.
        rng: decides.
        behind: the other recording.
    """
    act, start = rng.random(), rng.randrange(len(data))
    if act < 0.15:
        size = min(rng.choice((50, 500, 5000)), len(data) - start)
        return data[:start] + rng.choice((bytes(size), rng.randbytes(size))) + data[start + size :]
    if act < 0.3:
        return data[: rng.choice((len(data), start))] + behind
    return bytes_mutated(data, rng, header=120)


def _place(data: bytes, rng: Random, header: int) -> int:
    end = len(data) if rng.random() < 0.3 else min(header, len(data))
    return rng.randrange(end + 1)


def _flip(data: bytes, rng: Random, header: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[min(_place(data, rng, header), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: Random, header: int) -> bytes:
    return data[: _place(data, rng, header)]


def _insert(data: bytes, rng: Random, header: int) -> bytes:
    at = _place(data, rng, header)
    new = rng.choice(
        (bytes(4), b"\xff" * 8, b"\n", b"\0", b"{[" * 500, rng.randbytes(rng.choice((1, 7, 300))))
    )
    return data[:at] + new + data[at:]


def _repeat(data: bytes, rng: Random, header: int) -> bytes:
    start, length = _place(data, rng, header), rng.choice((1, 4, 16, 200, 5000))
    return data[:start] + data[start : start + length] * rng.choice((2, 2, 50)) + data[start + length :]


def _drop(data: bytes, rng: Random, header: int) -> bytes:
    start = _place(data, rng, header)
    return data[:start] + data[start + rng.choice((1, 2, 4, 16, 1000)) :]


def _extreme(data: bytes, rng: Random, header: int) -> bytes:
    at, form = _place(data, rng, header), rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    number = rng.choice(EXTREMES) if form[1] != "H" else rng.choice(EXTREMES) & 0xFFFF
    if form[1] == "Q" and rng.random() < 0.5:
        number = rng.choice((2**63 - 1, 2**63, 2**64 - 1, 2**40))
    new = struct.pack(form, number)
    return data[:at] + new + data[at + len(new) :]


def _zeros(data: bytes, rng: Random, header: int) -> bytes:
    start, length = _place(data, rng, header), rng.choice((4, 64, 4096))
    return (
        data[:start]
        + rng.choice((b"\0", b"\xff")) * len(data[start : start + length])
        + data[start + length :]
    )


_OF_BYTES: tuple[Callable[[bytes, Random, int], bytes], ...] = (
    *(_flip, _flip, _cut, _insert, _repeat, _drop, _extreme, _extreme, _extreme, _zeros),
)


def value_mutated(document: Any, rng: Random) -> Any:
    """One to three changes to a document of plain values; the given one stays as it is."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        document = _changed(document, rng)
    return document


def _changed(document: Any, rng: Random) -> Any:
    places = list(_places(document))
    # First which key, then where: a list of a thousand numbers is no more than one key.
    names = sorted({_name(place) for place in places})
    chosen = rng.choice(names)
    place = rng.choice([place for place in places if _name(place) == chosen])
    if not place:
        return _new(document, rng)
    holder = document
    for part in place[:-1]:
        holder = holder[part]
    key, act = place[-1], rng.random()
    if act < 0.7:
        holder[key] = _new(holder[key], rng)
    elif act < 0.8:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice([text for text in VALUES if isinstance(text, str)])] = holder[key]
    else:
        holder.insert(rng.randrange(len(holder) + 1), holder[key])
    return document


def _name(place: Path) -> str:
    return ".".join("#" if isinstance(part, int) else str(part) for part in place)


def _places(value: Any, place: Path = ()) -> Iterator[Path]:
    yield place
    if len(place) > _DEEPEST:
        return
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, content in inside:
        yield from _places(content, (*place, key))


def _new(old: Any, rng: Random) -> Any:
    """A value in the place of another: any, or one near to it."""
    act = rng.random()
    if act < 0.55:
        return copy.deepcopy(rng.choice(VALUES))
    if act < 0.62:
        return _nested(old, rng.choice((1, 2, 150, 5000)))
    if isinstance(old, bool) or old is None:
        return not old
    if isinstance(old, int | float):
        if not abs(old) < 1e300:
            return 1
        return rng.choice(
            (-old, old + 1, old - 1, old * 1000, old / 7, float(old), str(old), 10**12 * int(old))
        )
    if isinstance(old, str):
        more = rng.choice((old, "\0", "\n", " "))
        return rng.choice((old + more, old[:-1], old.upper(), more + old, f"../{old}", [old]))
    if isinstance(old, list):
        return rng.choice((old[:-1], old + old, old[::-1], [old], {str(n): v for n, v in enumerate(old)}))
    return rng.choice(
        (list(old), [list(item) for item in old.items()], {}, {**old, "more": 1}, [old], str(old))
    )


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def json_bytes(value: Any) -> bytes:
    """As JSON, with what is none written as Python does; lone surrogates escaped; nesting of any depth."""
    shells = 0
    while isinstance(value, list) and len(value) == 1 and shells < 10_000:
        value, shells = value[0], shells + 1
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "[" * 5000 + "]" * 5000
    return ("[" * shells + text + "]" * shells).encode()


def json_mutated(data: bytes, rng: Random) -> bytes:
    """A JSON document with values changed, or bytes."""
    if rng.random() < 0.2:
        return bytes_mutated(data, rng)
    return json_bytes(value_mutated(json.loads(data), rng))


def lines_mutated(data: bytes, rng: Random) -> bytes:
    """JSON lines: values of one or all changed, lines twice, left out or joined, or bytes changed."""
    act = rng.random()
    if act < 0.15:
        return bytes_mutated(data, rng, header=len(data))
    lines = data.splitlines()
    at = rng.randrange(len(lines))
    if act < 0.3:
        return b"\n".join(
            rng.choice((lines[:at], lines + lines[at:], [b"".join(lines)], [*lines[:at], b"", b"3"]))
        )
    if act < 0.45:
        state = rng.getrandbits(32)
        return (
            b"\n".join(json_bytes(value_mutated(json.loads(line), Random(state))) for line in lines) + b"\n"
        )
    lines[at] = json_bytes(value_mutated(json.loads(lines[at]), rng))
    return b"\n".join(lines) + b"\n"


def yaml_mutated(data: bytes, rng: Random) -> bytes:
    """A YAML document with values or bytes changed, or things of YAML in it."""
    act = rng.random()
    if act < 0.12:
        return bytes_mutated(data, rng, header=len(data))
    if act < 0.25:
        at = rng.choice([place for place, byte in enumerate(data) if byte == 10] or [0])
        return data[: at + 1] + rng.choice(_OF_YAML) + b"\n" + data[at + 1 :]
    try:
        return yaml.dump(value_mutated(yaml.safe_load(data), rng), sort_keys=False).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return b"a: " + b"[" * 5000


_OF_YAML = (
    b"&a [*a]", b"a: &x [1, *x]", b"<<: 3", b"<<: [{a: 1}]", b"? [a]\n: b", b"!!python/object:os.system {}",
    b"!!binary a", b"---", b"%YAML 9.9", b"2020-99-99: 1", b"a: 1:2:3", b"base: !!float x", b"\tbase: x",
    b"{" * 900, b"base: 0o9", b"base: .nan", b"seed: .inf", b"seed: 0x" + b"f" * 400, b"seed: 1e400",
    b"base: ~", b"null: 1",
)  # fmt: skip


def cells_mutated(data: bytes, rng: Random, separator: bytes) -> bytes:
    """A table of cells: some changed, a column or row twice, gone or in another order; or bytes changed."""
    act = rng.random()
    if act < 0.2:
        return bytes_mutated(data, rng, header=len(data))
    rows = [line.split(separator) for line in data.splitlines()]
    if act < 0.35:
        column = rng.randrange(len(rows[0]))
        order = [*range(len(rows[0]))]
        order = rng.choice((order[:column] + order[column + 1 :], [*order, column], order[::-1]))
        rows = [[row[place] for place in order] for row in rows]
    elif act < 0.45:
        rows.insert(rng.randrange(len(rows) + 1), list(rng.choice(rows)))
    else:
        cell = rng.choice(CELLS).encode("utf-8", "surrogatepass")
        column = rng.randrange(len(rows[0]))
        for at in range(1, len(rows)) if rng.random() < 0.2 else [rng.randrange(len(rows))]:
            rows[at][column] = cell
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(separator.join(row) for row in rows) + b"\n"


def safetensors_mutated(data: bytes, rng: Random) -> bytes:
    """A safetensors file: its header's values changed, numbers among the weights, or bytes anywhere."""
    act = rng.random()
    if act < 0.3:
        return bytes_mutated(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, values = data[8 : 8 + length], data[8 + length :]
    if act < 0.75:
        header = json_bytes(value_mutated(json.loads(header), rng))
        return struct.pack("<Q", len(header)) + header + values
    at = 4 * rng.randrange(max(1, len(values) // 4))
    odd = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38, 1e20, 1e5, 1e-40)))
    return data[:8] + header + values[:at] + odd * rng.choice((1, 1, 500)) + values[at + 4 :]


def gzip_mutated(data: bytes, rng: Random) -> bytes:
    """JSON lines in gzip: what is in it changed, or its bytes."""
    if rng.random() < 0.15:
        return bytes_mutated(data, rng)
    return gzip.compress(lines_mutated(gzip.decompress(data), rng), mtime=0)
