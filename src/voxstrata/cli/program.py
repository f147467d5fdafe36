"""How this program is started here, so that a command that is shown works as typed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "voxstrata"


def program() -> str:
    """What to type for `voxstrata`: its name where the shell finds this one, else the path to it.

    The path is relative where it lies under the current folder, such as `.venv/bin/voxstrata`.
    """
    started = Path(sys.argv[0])
    if started.stem != NAME or not started.is_file():
        # Started as a module, or from Python: the script that was installed beside the interpreter.
        started = Path(sys.executable).with_name(NAME + (".exe" if os.name == "nt" else ""))
    if not started.is_file():
        return NAME
    found = shutil.which(NAME)
    if found is not None and Path(found).samefile(started):
        return NAME
    # Not resolved: what a link in .venv leads to is another program.
    place, here = started.absolute(), Path.cwd()
    if not place.is_relative_to(here):
        return shlex.quote(str(place))
    shown = str(place.relative_to(here))
    return shlex.quote(shown if os.sep in shown else f".{os.sep}{shown}")
