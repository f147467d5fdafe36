"""Links to what the site has under another name, or not at all, so that pages read alike on a code host.

Pages at the root of the repository stand in the site as pages that include them; a folder is no page, and
its link becomes plain text.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

#: File at the root -> page of the site.
PAGES = {
    "README.md": "index",
    "ARCHITECTURE.md": "architecture",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "MODEL_CARD.md": "model-card",
}


def mend(app: Sphinx, doctree: nodes.document) -> None:
    """Points links at the root's pages to those of the site, and takes links to folders out."""
    page = Path(app.srcdir) / app.env.docname
    for link in list(doctree.findall(pending_xref)):
        if link.get("reftype") != "myst":
            continue
        name = Path(link["reftarget"].partition("#")[0]).name
        target = PAGES.get(name) or PAGES.get(f"{name}.md")
        if target and link["reftarget"] not in app.env.found_docs:
            link["refdomain"], link["reftarget"] = "doc", target
            # The first page of the site has other headings than the README.
            link["reftargetid"] = None if target == "index" else link.get("reftargetid")
        elif link["refdomain"] is None and (page.parent / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Listens for pages that were read."""
    app.connect("doctree-read", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
