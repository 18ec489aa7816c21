"""What went wrong, in the form in which OpenAI's interface says it; never with a path or a trace of this machine."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from depthlm.errors import DepthLMError

LONGEST_MESSAGE = 500
# Of `DepthLMError.kind`; whatever else bad input is called is a 400.
STATUSES = {"image too large": 413, "no answer": 503}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_PATH = re.compile(r"(?:(?<![\w/])~?|[A-Za-z]:)(?:[/\\][\w.@+-]+){2,}[/\\]?")


class GatewayError(Exception):
    """A refusal or failure to be told to the client.

    Args:
        status: HTTP status.
        param: the field at fault.
        code: a short stable label.
        retry_after: seconds after which another attempt makes sense.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """``{"error": …}``."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        message = self.message[:LONGEST_MESSAGE]
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code or None}}

    def response(self) -> Response:
        """The whole answer."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(self.body()), self.status, headers, "application/json")


class BadRequest(GatewayError):
    """A request that says something impossible."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(400, message, param=param, code=code)


class Away(GatewayError):
    """The model's server isn't there."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(503, message, code="model_unavailable", retry_after=retry_after)


def told(error: DepthLMError) -> GatewayError | None:
    """A DepthLMError as a client may see it; None for one whose fault lies on this side: it names a file here."""
    where = error.where
    if "/" in where or "\\" in where:
        return None
    text = f"{where}: {error.reason}" + (f" ({error.mend})" if error.mend else "")
    status = STATUSES.get(error.kind, 400)
    return GatewayError(status, without_paths(text), param=where, code=error.kind.replace(" ", "_"))


def without_paths(text: str) -> str:
    """A text without what looks like a file's path."""
    return _PATH.sub("…", text)


def of_validation(errors: list[Any]) -> GatewayError:
    """What pydantic found, without the values: those may be whole images."""
    first = errors[0] if errors else {"loc": (), "msg": "is not understood"}
    where = ".".join(str(part) for part in first["loc"] if part != "body")[:80]
    text = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    status = 400 if first.get("type") == "json_invalid" else 422
    param = None if status == 400 else where or None
    return GatewayError(status, f"{param or 'body'}: {text}{more}", param=param, code="invalid_request")


def add_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` one of OpenAI's form."""

    async def gateway_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        return error.response()

    async def depthlm_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, DepthLMError)
        if (found := told(error)) is None:
            raise error  # a 500, and in the log
        return found.response()

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(list(error.errors())).response()

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = {404: "there is no such page", 405: "this page has no such method"}.get(error.status_code)
        phrase = HTTPStatus(error.status_code).phrase
        response = GatewayError(error.status_code, message or str(error.detail), code=phrase.lower().replace(" ", "_"))
        out = response.response()
        out.headers.update(error.headers or {})
        return out

    app.add_exception_handler(GatewayError, gateway_error)
    app.add_exception_handler(DepthLMError, depthlm_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
