"""What the tests of hostile checkpoints share: one line in answer."""

from __future__ import annotations

import pytest

from voxstrata.errors import CheckpointError


def refused(message: str, read, *arguments) -> str:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)
