"""Server-sent events of the model's server, one by one, with its errors in the words that are the gateway's."""

from __future__ import annotations

import json
import re
from typing import Any

from depthlm.serving.gateway.faults import GatewayError
from depthlm.serving.gateway.upstream import refusal

LONGEST_EVENT = 4 << 20
_ENDS = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONGEST_END = 4


class Events:
    """Cuts a stream into its events, wherever the network cut it."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """The events that are whole with this piece, as the client is to have them.

        Raises:
            GatewayError: 502, an event without end.
        """
        looked = max(0, len(self._tail) - _LONGEST_END + 1)
        self._tail += piece
        out, begin = bytearray(), 0
        while end := _ENDS.search(self._tail, max(begin, looked)):
            out += _told(bytes(self._tail[begin : end.start()])) + end[0]
            begin = end.end()
        del self._tail[:begin]
        if len(self._tail) > LONGEST_EVENT:
            raise GatewayError(502, "the model's server sends an event without end", code="bad_upstream")
        return bytes(out)

    def rest(self) -> bytes:
        """What came after the last end."""
        return _told(bytes(self._tail))


def _told(event: bytes) -> bytes:
    """An event as it came; an error in it is told as in any other answer, for its own words may name paths."""
    if b'"error"' not in event:
        return event
    data = b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return event
    if not isinstance(found, dict) or not (found.get("error") or found.get("object") == "error"):
        return event
    error = found.get("error") or found
    error = error if isinstance(error, dict) else {"message": str(error)}
    status = error.get("code") if isinstance(error.get("code"), int) else 500
    return b"data: " + json.dumps(refusal(status, json.dumps({"error": error}).encode()).body()).encode()
