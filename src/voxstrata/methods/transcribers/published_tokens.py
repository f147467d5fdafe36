"""What the outputs of a published CTC head stand for, from the files of its tokenizer.

The files are those of transformers' `Wav2Vec2CTCTokenizer`. Its blank is the pad token, at whatever index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxstrata.documents import read_json_object
from voxstrata.errors import CheckpointError
from voxstrata.vocabulary import Vocabulary

# Not transformers' own class, which a test compares with: strangers' files pass the one reader of JSON.
_VOCABULARY, _SETTINGS, _SPECIAL = "vocab.json", "tokenizer_config.json", "special_tokens_map.json"
_ADDED = "added_tokens.json"
#: Of the tokenizer's defaults, those that are never words.
_DEFAULT_SPECIAL = ("<s>", "</s>", "<unk>")
_TOKENIZER = "Wav2Vec2CTCTokenizer"


@dataclass(frozen=True)
class PublishedTokens:
    """The outputs of a published head in the order of ours, the blank first.

    Args:
        vocabulary: what each output writes; nothing where it is a special token.
        order: output of ours -> output of the published head.
        pad: the token that is the blank.
    """

    vocabulary: Vocabulary
    order: tuple[int, ...]
    pad: str

    @property
    def blank(self) -> int:
        """Index of the blank in the published head."""
        return self.order[0]


def read_tokens(folder: Path, *, outputs: int) -> PublishedTokens:
    """Reads the tokens of a head.

    Args:
        folder: with vocab.json, and tokenizer_config.json or special_tokens_map.json.
        outputs: of the head.

    Raises:
        CheckpointError: if a file is missing or is not what it should be, an index has no token or several,
            there are more or fewer tokens than outputs, or none is the pad token.
    """
    settings = _settings(folder)
    stated = settings.get("tokenizer_class")
    if stated not in (None, _TOKENIZER):
        raise CheckpointError(
            f"{folder / _SETTINGS} names {stated!r}; words are read with {_TOKENIZER} only: give such a model"
        )
    tokens = _indexed(folder, settings, outputs)
    pad = _content(settings.get("pad_token"))
    if pad is None:
        raise CheckpointError(
            f"neither {_SETTINGS} nor {_SPECIAL} in {folder} names a pad_token, which is CTC's blank; "
            "fetch the tokenizer's files of the same model"
        )
    if pad not in tokens:
        raise CheckpointError(
            f"the pad token {pad!r} of {folder} is none of the {outputs} tokens of {_VOCABULARY}; fetch the "
            "tokenizer's files of the same model"
        )
    blank = tokens.index(pad)
    order = (blank, *(index for index in range(outputs) if index != blank))
    silent, delimiter = _special(settings), _content(settings.get("word_delimiter_token", "|"))
    lower = bool(settings.get("do_lower_case"))

    def written(token: str) -> str:
        if token == delimiter:
            return " "
        return "" if token in silent else token.lower() if lower else token

    return PublishedTokens(Vocabulary(tuple(written(tokens[index]) for index in order[1:])), order, pad)


def _settings(folder: Path) -> dict[str, Any]:
    """Both files as one; as in transformers, the older one holds where the newer lists no added tokens."""
    settings, special = (_object(folder / name) or {} for name in (_SETTINGS, _SPECIAL))
    return {**special, **settings} if "added_tokens_decoder" in settings else {**settings, **special}


def _indexed(folder: Path, settings: Mapping[str, Any], outputs: int) -> list[str]:
    """The token of each output."""
    path = folder / _VOCABULARY
    found = _object(path)
    if found is None:
        raise CheckpointError(
            f"{folder} has a CTC head and no {_VOCABULARY}, so that its outputs stand for nothing; fetch the "
            f"tokenizer's files of the same model ({_VOCABULARY}, {_SETTINGS}, {_SPECIAL})"
        )
    tokens: dict[int, str] = {}
    for token, index in found.items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise CheckpointError(
                f"{path}: {token!r} has {str(index)[:40]!r} in the place of an index; give a model whose "
                "vocabulary is one object of tokens with an index each"
            )
        if index in tokens:
            raise CheckpointError(
                f"{path} gives index {index} to {tokens[index]!r} and to {token!r}; fetch it again"
            )
        tokens[index] = token
    for index, token in _added(folder, settings).items():
        if index < outputs:
            tokens.setdefault(index, token)
    # Not all up to the largest index: that is what the file claims.
    missing = [index for index in range(min(max(tokens, default=-1), len(tokens)) + 1) if index not in tokens]
    if missing:
        raise CheckpointError(
            f"{path} has no token of index {', '.join(map(str, missing[:4]))}; fetch it again"
        )
    if len(tokens) != outputs:
        raise CheckpointError(
            f"{path} has {len(tokens)} tokens, the head has {outputs} outputs; fetch both from the same model"
        )
    return [tokens[index] for index in range(outputs)]


def _added(folder: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """Tokens that the tokenizer was given after vocab.json was written."""
    added = {
        index: token
        for token, index in (_object(folder / _ADDED) or {}).items()
        if isinstance(index, int) and index >= 0
    }
    listed = settings.get("added_tokens_decoder")
    for index, stated in listed.items() if isinstance(listed, Mapping) else ():
        if index.isdecimal() and len(index) < 10 and (token := _content(stated)) is not None:
            added[int(index)] = token
    return added


def _special(settings: Mapping[str, Any]) -> set[str]:
    """Tokens that are never written."""
    named = [value for name, value in settings.items() if name.endswith("_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(name)
        named += more.values() if isinstance(more, Mapping) else more if isinstance(more, list) else []
    listed = settings.get("added_tokens_decoder")
    for token in listed.values() if isinstance(listed, Mapping) else ():
        named += [token] if isinstance(token, Mapping) and token.get("special") else []
    return {*_DEFAULT_SPECIAL, *(token for value in named if (token := _content(value)) is not None)}


def _content(token: object) -> str | None:
    """A token, written as such or as an object with its properties."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file."""
    if not path.is_file():
        return None
    return read_json_object(path, error=CheckpointError, advice="fetch it again")
