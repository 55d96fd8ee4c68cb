"""Errors as OpenAI's clients expect them."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of the HTTP response.
        message: what is wrong, and what to do.
        param: which part of the request is at fault.
        code: short and stable, for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def wrong(param: str, message: str) -> ApiError:
    """A part of the request that cannot be as it is."""
    return ApiError(400, message, param=param, code="invalid_value")


def unsupported(param: str, message: str) -> ApiError:
    """A part of the request that this server does not do: said, rather than left out of the answer."""
    return ApiError(400, message, param=param, code="unsupported_parameter")
