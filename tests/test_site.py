"""The documentation site builds without a warning; skipped where Sphinx is not installed (`make docs`)."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "sphinx_design")
MISSING = [name for name in NEEDED if find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; `make docs` installs them")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    sources = (ROOT / "docs").rglob("*.md")
    assert {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in sources} <= pages


def test_every_page_of_the_site_stands_in_its_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split()
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index"} <= set(index)
