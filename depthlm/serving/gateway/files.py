"""Image files within a request's JSON: out of it before it is parsed, in again once it is written anew."""

from __future__ import annotations

import re
import secrets

import pybase64

from depthlm.serving.gateway.images import file_bytes

BASE64 = b";base64,"
# A shorter file is parsed as quickly as it is taken out.
SHORTEST = 1024
# Of a media type with its parameters, in front of a file.
LONGEST_HEAD = 200
# Of one request; more stay where they are.
MOST = 1000
_MARK = re.compile(rb"<[0-9a-f]{32}>")
_COLON = re.compile(rb"\s*:")


class Files:
    """The files of one request; in its JSON marks stand for them, which nobody else can have written.

    To scan a photo for the end of a JSON text, and to escape it again, takes longer than to mark its points.
    """

    def __init__(self) -> None:
        self._encoded: dict[bytes, bytes] = {}
        self._decoded: dict[str, bytes] = {}
        self.outside = 0

    def take_out(self, raw: bytes) -> bytes:
        """The JSON with a mark for each file of a data URL; what is no plain base64 stays where it is.

        ``outside`` is then its length.
        """
        out, rest, begin = bytearray(), 0, 0
        for _ in range(MOST):
            found = raw.find(BASE64, begin)
            start = found + len(BASE64)
            begin = raw.find(b'"', start)
            if found < 0 or begin < 0:
                break
            opening = raw.rfind(b'"', max(0, found - LONGEST_HEAD), found)
            if opening < 0 or begin - start < SHORTEST or raw[opening + 1 : opening + 6].lower() != b"data:":
                continue
            # neither within another text, nor a field's name, which has to be told from others
            if raw[max(0, opening - 1) : opening] == b"\\" or _COLON.match(raw, begin + 1):
                continue
            encoded = raw[start:begin]
            try:
                data = pybase64.b64decode(encoded, validate=True)
            except ValueError:
                continue
            mark = self._put(encoded)
            self._decoded[mark] = data
            out += raw[rest:start] + mark.encode()
            rest = begin
        out += raw[rest:]
        self.outside = len(out)
        return bytes(out)

    def read(self, url: str, param: str) -> bytes:
        """The file in a data URL of that JSON, see `depthlm.serving.gateway.images.file_bytes`."""
        data = self._decoded.get(url.partition(",")[2])
        return file_bytes(url, param) if data is None else data

    def put(self, data: bytes, kind: str) -> str:
        """A data URL for another file of media type ``kind``."""
        return f"data:{kind};base64,{self._put(pybase64.b64encode(data))}"

    def fill(self, body: bytes) -> bytes:
        """JSON with the files in the place of their marks."""
        return _MARK.sub(lambda found: self._encoded.get(found[0], found[0]), body)

    def _put(self, encoded: bytes) -> str:
        mark = f"<{secrets.token_hex(16)}>"
        self._encoded[mark.encode()] = encoded
        return mark
