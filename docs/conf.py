"""Settings of the documentation site: `make docs` builds it from docs/ into build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS.parent / "src")]

from pygments.lexers.special import TextLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

from voxstrata import __version__  # noqa: E402

# A code host highlights tables of comma-separated values; Pygments has no lexer for them.
lexers["csv"] = TextLexer()

project = "voxstrata"
author = "The voxstrata authors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "folder_links",
]
html_math_renderer = "mathml"
exclude_patterns = ["answers", "extensions"]

# The same headings, links and formulas as on a code host.
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
myst_dmath_allow_digits = False
myst_dmath_allow_space = False

autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
add_module_names = False

html_theme = "furo"
html_title = "voxstrata"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
