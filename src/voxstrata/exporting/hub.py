"""An export on the Hugging Face hub: one commit of all its files, and a card that loads it from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from voxstrata.backbone.export_folder import CARD, CARD_MARK, PARTS
from voxstrata.errors import CheckpointError, VoxstrataError
from voxstrata.exporting.loading import HERE

_LOADING = "## Loading\n"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
#: What to do where the hub answers with a status.
_ADVICE = {401: "log in: hf auth login", 403: "take a token that may write: hf auth login"}


def push(folder: Path, repo: str, *, private: bool, notify: Callable[[str], None]) -> str:
    """Puts an export on the hub, or on the server that HF_ENDPOINT names; with the token of `hf auth login`.

    A repository that is there gets a new commit; parts of an older export that this one has not are removed.

    Args:
        folder: that `export` wrote.
        repo: USER/NAME.
        private: nobody else may see it.
        notify: receives lines for the user.

    Returns:
        Its address.

    Raises:
        CheckpointError: if the folder is no export, the name is none, the hub refuses or cannot be reached,
            or the repository is public and is to be private.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not _NAME.fullmatch(repo):
        raise CheckpointError(f"{repo!r} is no repository of the hub; give USER/NAME, e.g. me/my-model")
    files = _files(folder)
    text = _card(folder, repo)
    with _refusals(repo):
        api = HfApi()
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        known = api.model_info(repo)
        if private and not known.private:
            raise CheckpointError(
                f"{repo} is there already and is public; make it private in its settings, push to another "
                "name, or leave --private out"
            )
        older = {one.rfilename for one in known.siblings or ()} - files.keys()
        add = [
            CommitOperationAdd(name, text.encode() if name == CARD else str(path))
            for name, path in files.items()
        ]
        remove = [CommitOperationDelete(name) for name in sorted(older) if name.split("/")[0] in PARTS]
        api.create_commit(repo, [*add, *remove], commit_message="Upload a voxstrata export")
    notify(f"pushed {', '.join(files)}")
    if remove:
        notify(f"removed what an older export left there: {', '.join(one.path_in_repo for one in remove)}")
    return address


def _files(folder: Path) -> dict[str, Path]:
    """The files of an export by their names in it."""
    card = folder / CARD
    if not card.is_file() or CARD_MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise CheckpointError(
            f"{folder} is no export of voxstrata (no {CARD} with its mark); write one with voxstrata export"
        )
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in found.items() if path.is_file() and name.split("/")[0] in PARTS}


def _card(folder: Path, repo: str) -> str:
    """The card, with lines that load from the hub."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise CheckpointError(
            f"{folder / CARD} is not UTF-8 text (byte {fault.start}); save it as UTF-8, or export again"
        ) from None
    if (folder / "model.json").is_file():
        # Encoder and head lie beside each other: voxstrata reads them from a folder.
        return text.replace(
            _LOADING, f"{_LOADING}\nFetch it first: `hf download {repo} --local-dir {HERE}`.\n", 1
        )
    return text.replace(HERE, repo)


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Makes one line of what the hub, its library or the network reports."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except VoxstrataError:
        raise
    except HfHubHTTPError as fault:
        advice = _ADVICE.get(getattr(fault.response, "status_code", 0), "try again later")
        raise CheckpointError(f"the hub refuses {repo} ({_first(fault)}); {advice}") from None
    except Exception as fault:  # errors of the network are those of whatever library the client is built on
        raise CheckpointError(
            f"cannot push to {repo} ({_first(fault)}); look at the network, and at HF_ENDPOINT if it is set"
        ) from None


def _first(fault: Exception) -> str:
    """The first line of a reason."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return (lines[0] if lines else type(fault).__name__)[:200].rstrip(".")
