"""An HTTP answer as a value, and the answers this server adds to MLflow's."""

from __future__ import annotations

import json
from dataclasses import dataclass

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """``headers`` come on top of those every answer has; names in lower case."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def error_reply(status: int, code: str, message: str, *headers: tuple[str, str]) -> Reply:
    """An error in the form of MLflow's: ``{"error_code", "message"}``."""
    body = json.dumps({"error_code": code, "message": message}).encode()
    return Reply(status=status, body=body, headers=headers)


NOT_READY = error_reply(503, "TEMPORARILY_UNAVAILABLE", "The model is not ready yet.", ("retry-after", "1"))
HUNG = error_reply(503, "INTERNAL_ERROR", "No prediction comes to its end.")
FULL = error_reply(503, "TEMPORARILY_UNAVAILABLE", "Too many requests are waiting.", ("retry-after", "1"))
UNAUTHORIZED = error_reply(401, "UNAUTHENTICATED", "A bearer token is needed.", ("www-authenticate", "Bearer"))
SLOW_CLIENT = error_reply(408, "BAD_REQUEST", "The request did not arrive in time.", ("connection", "close"))
TOO_DEEP = error_reply(400, "BAD_REQUEST", "Invalid input. The JSON is nested too deeply.")
TOO_LONG = error_reply(400, "BAD_REQUEST", "Invalid input. The JSON has a number with too many digits.")
TWO_LENGTHS = error_reply(
    400, "BAD_REQUEST", "Content-Length and Transfer-Encoding do not go together.", ("connection", "close")
)
NOT_GZIP = error_reply(400, "BAD_REQUEST", "Invalid input. The body is not a whole gzip stream.")
UNKNOWN_ENCODING = error_reply(
    415, "BAD_REQUEST", "This server reads bodies as they are, or Content-Encoding: gzip.", ("accept-encoding", "gzip")
)
NOT_LOADED = error_reply(500, "INTERNAL_ERROR", "MLflow cannot serve this model. The server's log tells why.")
# Word for word what MLflow's server answers.
UNSUPPORTED = Reply(
    status=415,
    body=b"This predictor only supports the following content types: Types: "
    b"['text/csv', 'application/json', 'application/vnd.apache.parquet']. Got 'None'.",
    content_type=TEXT,
)
TIMED_OUT = Reply(status=504, body=b"Request processing time exceeded limit")
FAILED = Reply(status=500, body=b"Internal Server Error", content_type=TEXT)


def too_large(limit: int) -> Reply:
    """413 for a body above ``limit`` bytes."""
    message = f"The request is larger than {limit} bytes."
    return error_reply(413, "REQUEST_LIMIT_EXCEEDED", message, ("connection", "close"))
