"""A public address through gradio's servers, only where it is asked for."""

from __future__ import annotations

import secrets

from gradio import networking

from voxstrata.errors import VoxstrataError


def public_address(host: str, port: int) -> str:
    """Opens a tunnel to a port of this machine.

    Args:
        host: that the server listens on.
        port: likewise.

    Raises:
        VoxstrataError: if gradio's servers cannot be reached.
    """
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        address: str = networking.setup_tunnel(local, port, secrets.token_urlsafe(32), None, None)
    except Exception as fault:
        raise VoxstrataError(
            f"gradio's servers gave no public address ({fault}); leave --share out, or look at the network"
        ) from None
    return address
