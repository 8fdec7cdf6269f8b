"""What a client is told when a request cannot be done, in the shape of OpenAI's API."""

from __future__ import annotations

import math
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from ..errors import Busy, InputError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    429: "busy",
    500: "internal_error",
    501: "not_supported",
    503: "unavailable",
}


class ApiError(HTTPException):
    """An answer that is an error. ``retry_after``: seconds after which it may work."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status, "error")
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """As OpenAI's API writes it."""
        kind = _TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


class BrokenOff(Exception):
    """Ends a connection whose response has begun and cannot be completed; it was logged before."""


def as_api_error(e: BaseException) -> ApiError:
    """Any exception as an answer; what is not the client's fault is not described to it."""
    if isinstance(e, ApiError):
        return e
    if isinstance(e, Busy):
        return ApiError(429, str(e), retry_after=e.retry_after)
    if isinstance(e, InputError):
        param = str(e).partition(":")[0]
        return ApiError(400, str(e), param=param if param.isidentifier() else None)
    return ApiError(500, "the server failed on this request; its log has the reason")
