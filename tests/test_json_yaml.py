"""The readers of JSON and YAML: plain values come through, anything else is one line of the asked error."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxstrata.documents import (
    parse_json,
    parse_yaml,
    quick_json,
    read_json,
    read_json_object,
    read_yaml_file,
    to_yaml,
)
from voxstrata.errors import CheckpointError, CorpusError, VoxstrataError

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
SCALARS = SCALARS.filter(lambda value: not (isinstance(value, float) and math.isinf(value)))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(VALUES, st.booleans())
def test_json_that_python_writes_comes_back(value, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        return
    assert parse_json(text, "it") == value
    assert parse_json(b"\xef\xbb\xbf" + text.encode(), "it") == value


BAD_JSON = {
    "[" * 100_000: "nested too deeply",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "nested too deeply",
    "9" * 5_000: "a number has 5,000 digits",
    "[" + "9" * 400 + "]": "a number has 400 digits",
    '{"a": 1e999}': "the number 1e999 is too large",
    '["\\ud800"]': "half a character",
    '{"\\udfff": 1}': "half a character",
    "[NaN]": "NaN is no JSON value",
    "-Infinity": "-Infinity is no JSON value",
    "": "Expecting value",
    "{'a': 1}": "double quotes",
}


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_what_is_no_json_is_one_line(text):
    with pytest.raises(CheckpointError) as caught:
        parse_json(text, "config.json", error=CheckpointError, advice="fetch it again")
    line = str(caught.value)
    assert line.startswith("config.json is not JSON: ") and line.endswith("; fetch it again")
    assert BAD_JSON[text] in line and "\n" not in line and len(line) < 300


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"id": 1, "id": 2}', "'id'"),
        ('{"id": 1, "id": 1}', "'id'"),
        ('[{"a": {"b": [{"c": 0, "d": 1, "c": null}]}}]', "'c'"),
        ('{"\\u0061": 1, "a": 2}', "'a'"),
        ('{"": 1, "" : 2}', "''"),
        ('{"a\\nb": 1, "a\\nb": 2}', r"'a\nb'"),
    ],
)
def test_a_key_that_stands_twice_in_one_object_is_named(text, key, nan):
    with pytest.raises(CorpusError) as caught:
        parse_json(text, "it", error=CorpusError, advice="mend it", nan=nan)
    assert str(caught.value) == f"it: the key {key} stands twice in one object; keep one; mend it"


def test_one_key_in_several_objects_is_none_that_stands_twice():
    text = '{"a": {"a": [{"a": 1}, {"a": 2}]}, "A": 3}'
    assert parse_json(text, "it") == json.loads(text)


def test_byte_order_marks_drop_however_many():
    for text in ("\ufeff\ufeff[1]", "\ufeff\ufeff\ufeff[1]"):
        for given_as in (text, text.encode(), text.encode("utf-16")):
            assert parse_json(given_as, "it") == parse_yaml(given_as, "it") == [1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str):
    (tmp_path / "it.json").write_text('{"a": "caf\u00e9"}', encoding=encoding)
    assert read_json_object(tmp_path / "it.json") == {"a": "caf\u00e9"}
    with pytest.raises(VoxstrataError, match="not UTF-8 text"):
        parse_json(b"\xff\xfe\x00\xd8", "it")


PIECES = [
    '"a"',
    '"b"',
    '"c:d"',
    ":",
    " :",
    ",",
    "{",
    "}",
    "[",
    "]",
    "1",
    "1e999",
    "NaN",
    '"\\ud800"',
    "9" * 400,
    " ",
    "2.5",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | VALUES.map(json.dumps))
@settings(max_examples=500)
def test_the_quick_reader_reads_as_the_other_one_or_leaves_it_to_that(text):
    quick = quick_json(text.encode())
    try:
        value = parse_json(text, "it", error=CorpusError)
    except CorpusError as fault:
        # But for keys that stand twice, which the colons tell.
        assert quick is None or ("stands twice" in str(fault) and quick[1] > keys_in(quick[0]))
    else:
        assert quick is None or (quick[0] == value and quick[1] >= keys_in(value))


def keys_in(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(keys_in, value.values()))
    return sum(map(keys_in, value)) if isinstance(value, list) else 0


def test_nan_is_taken_where_it_is_asked_for():
    found = parse_json("[NaN, Infinity, 1e999]", "it", nan=True)
    assert math.isnan(found[0]) and found[1:] == [math.inf, math.inf]


def test_a_whole_pair_of_surrogates_is_a_character():
    assert parse_json('"\\ud83d\\ude00"', "it") == "\U0001f600"


#: Ten to the eighth keys, if each << were laid out.
MERGED = "\n".join(
    ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(1000)) + "}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 6)]
)
BAD_YAML = {
    "[" * 100_000: "nested too deeply",
    "{a: " * 5_000 + "1" + "}" * 5_000: "nested",
    "seed: !!timestamp 2026-11-30": "line 1, column 7: a tag (!...) that is not known",
    "seed: !!python/object:os.system [ls]": "line 1, column 7: a tag (!...) that is not known",
    "seed: !!int 2:30": "'2:30' is no number",
    "seed: !!float x": "'x' is no number",
    "seed: 1e400": "the number 1e400 is too large",
    "seed: " + "9" * 5_000: "digits",
    "seed: 0x" + "f" * 5_000: "more than 308 digits",
    "a: 1\na: 2": "stands twice in one mapping, in line 1 and again in line 2",
    'a: "\\ud800"': "half a character",
    "a: &x [*x]": "refers to itself",
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "\n".join(
        f"{k}: &{k} [{', '.join(['*' + j] * 10)}]" for j, k in zip("abcdefgh", "bcdefghi", strict=True)
    ): "values",
    "a: !!int ''": "'' is no number",
    "? [1, 2]\n: 3\n? {a: b}\n: 4": "line 1, column 3: a list or mapping as a key; give a name",
    "a: b: c": "line 1, column 5: a colon stands where none can",
    "a: [1, 2": "line 1, column 9: a list that [ opens is not closed; add ]",
    "a: {b: 1]": "line 1, column 9: a mapping that { opens is not closed; add }",
    "a: 'b": "line 1, column 6: a quotation mark is not closed",
    "a: *b": "line 1, column 4: * begins a reference to nothing",
    "a: 1\n---\nb: 2": "line 2, column 1: --- begins another document",
    "a:\n  b: 1\n c: 2": "line 3, column 2: a line is indented otherwise than those beside it",
    "a: 1\nb": "line 2, column 2: a line has no colon",
    "\ta: 1": "line 1, column 1: a character that no value begins with, or a tab",
    "<<: 3": "<< takes a mapping",
    "\x00": "it holds the character '\\x00'",
    MERGED: "more than 1,000,000 values",
}


@pytest.mark.parametrize("text", BAD_YAML, ids=range(len(BAD_YAML)))
def test_what_is_no_yaml_is_one_line(text):
    with pytest.raises(CorpusError) as caught:
        parse_yaml(text, "mine.yaml", error=CorpusError)
    line = str(caught.value)
    assert line.startswith("mine.yaml") and BAD_YAML[text] in line and "\n" not in line and len(line) < 300


@given(st.text(alphabet="[]{}:,-&*!?|>'\"%@` \n\tab01.e\x85\u2028#~<=", max_size=40) | st.binary(max_size=30))
@settings(max_examples=400)
def test_any_text_is_read_or_refused(text):
    for parse in (parse_json, parse_yaml):
        try:
            parse(text, "it", error=CorpusError)
        except CorpusError as fault:
            assert "\n" not in str(fault)


#: As they are written -> what they are in YAML 1.2, by chapter 10.3 (core schema) of its specification.
SCALARS_1_2 = {
    "1e-3": 0.001, "1E+5": 1e5, "5.": 5.0, "+.5": 0.5, "-.inf": -math.inf, "+12": 12, "017": 17, "0o17": 15,
    "0x1F": 31, "true": True, "FALSE": False, "~": None, "Null": None, "": None,
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "2:30": "2:30", "1:2:3.4": "1:2:3.4",
    "2026-11-30": "2026-11-30", "2026-11-30 10:00:00": "2026-11-30 10:00:00", "0b11": "0b11",
    "1,000": "1,000", "=": "=", "0o8": "0o8", "1e": "1e", "'1'": "1", "!!str 1": "1", "<<": "<<",
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS_1_2)
def test_a_value_is_what_it_is_in_yaml_1_2(text):
    value = parse_yaml(text, "it")
    assert value == SCALARS_1_2[text] and type(value) is type(SCALARS_1_2[text])


def test_thousands_may_be_parted_as_in_python_and_in_no_other_way():
    assert parse_yaml("[10_000, -1_000_000, 1_0, 1_00, 0_100, 1__000]", "it") == [
        10_000, -1_000_000, "1_0", "1_00", "0_100", "1__000",
    ]  # fmt: skip


@given(VALUES | st.sampled_from([*SCALARS_1_2, "10_000", "1_0"]))
@example({"\x85": None, "a\u2028b": "\u2029"})
def test_yaml_that_is_written_comes_back(value):
    text = to_yaml({"a": value})
    assert parse_yaml(text, "it") == {"a": value}
    # Also in programs that read YAML 1.1.
    assert yaml.safe_load(text) == {"a": value}


def test_keys_that_a_merge_brings_lie_below_a_mappings_own():
    assert parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", "it")["d"] == {"b": 1, "c": 3}


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"cannot read .*nowhere.json: No such file or directory"):
        read_json(tmp_path / "nowhere.json", error=CorpusError)
    with pytest.raises(VoxstrataError, match="Is a directory"):
        read_yaml_file(tmp_path)
    with pytest.raises(VoxstrataError, match="null byte"):
        read_json(Path("a\0b"))
    with pytest.raises(VoxstrataError, match="File name too long"):
        read_json(tmp_path / ("x" * 300))
    (tmp_path / "large.yaml").write_text("# " + "x" * (1 << 20))
    with pytest.raises(VoxstrataError, match="larger than 1 MB"):
        read_yaml_file(tmp_path / "large.yaml")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe4"}')
    with pytest.raises(VoxstrataError, match=r"not UTF-8 text \(byte 7\)"):
        read_json(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[1]", "a list"), ("3", "a number"), ("null", "null"), ('"x"', "a text"), ("true", "true")],
)
def test_an_object_is_asked_for(tmp_path: Path, text: str, kind: str):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(VoxstrataError, match=f"must hold a JSON object and holds {kind}"):
        read_json_object(tmp_path / "it.json")
