"""What the page needs, and the line where it is missing."""

from __future__ import annotations

import importlib.util

from voxstrata.errors import VoxstrataError


def require_page() -> None:
    """Does nothing where the extra `page` is installed.

    Raises:
        VoxstrataError: where it is not.
    """
    if importlib.util.find_spec("gradio") is None:
        raise VoxstrataError("the page needs gradio, which is not installed; pip install 'voxstrata[page]'")
