"""Ports to listen on."""

from __future__ import annotations

import socket

from depthlm.errors import DepthLMError


def free_port(host: str, port: int) -> int:
    """The port, if nothing listens on it at ``host`` yet; any that is free for 0.

    Raises:
        DepthLMError: it is taken, or the host is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise DepthLMError(
                f"{host} port {port}", f"cannot be used: {error.strerror}", "give another, or 0"
            ) from error
        return sock.getsockname()[1]
