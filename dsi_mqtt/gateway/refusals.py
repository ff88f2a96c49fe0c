"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}`.

| of ours | status | type | may be asked again |
|---|---|---|---|
| `invalid_input` | 400 | invalid_request_error | no |
| no such deployment | 404 | invalid_request_error, code model_not_found | no |
| `model_failed`, `poison` | 422 | invalid_request_error | no: it is this input |
| `overloaded` | 429 | rate_limit_error | yes, after Retry-After |
| `unavailable`, `cancelled`, the broker is away | 503 | server_error | yes |
| `deadline` | 504 | server_error | yes |
| `failed`, anything else | 500 | server_error | yes |
"""

from __future__ import annotations

import re
from typing import Any, Final

from dsi_mqtt.errors import (
    DeadlineError,
    DsiError,
    InvalidInputError,
    ModelFailedError,
    OverloadedError,
    PoisonError,
    RequestCancelledError,
    RequestError,
    TransportError,
    UnavailableError,
    UnknownDeploymentError,
)

INVALID: Final = "invalid_request_error"
LIMITED: Final = "rate_limit_error"
SERVER: Final = "server_error"
RETRY_AFTER_S: Final = 2

_STATUSES: Final[tuple[tuple[type[DsiError], int, str], ...]] = (
    (UnknownDeploymentError, 404, INVALID),
    (InvalidInputError, 400, INVALID),
    (ModelFailedError, 422, INVALID),
    (PoisonError, 422, INVALID),
    (OverloadedError, 429, LIMITED),
    (UnavailableError, 503, SERVER),
    (RequestCancelledError, 503, SERVER),
    (TransportError, 503, SERVER),
    (DeadlineError, 504, SERVER),
)
# What this project refuses names its field.
_FIELD: Final = re.compile(r"\bfield (\w+)\b")


class ApiError(Exception):
    """A request is refused. param: the field at fault. retry_after_s: told where trying helps."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int = RETRY_AFTER_S,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:  # noqa: PLR2004 - unauthorised
            return {"WWW-Authenticate": "Bearer"}
        if self.status == 408:  # noqa: PLR2004 - the rest of the body is waited for no more
            return {"Connection": "close"}
        return {"Retry-After": str(self.retry_after_s)} if self.status in (429, 503) else {}


def unknown_model(model: str) -> ApiError:
    return ApiError(
        404,
        f"the model {model!r:.80} does not exist; GET /v1/models lists those that do",
        param="model",
        code="model_not_found",
    )


def api_error(error: DsiError) -> ApiError:
    """What the HTTP client is told of an error of ours."""
    if isinstance(error, UnknownDeploymentError):
        return ApiError(404, str(error), param="model", code="model_not_found")
    code = error.code if isinstance(error, RequestError) else "unavailable"
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            field = _FIELD.search(str(error)) if status == 400 else None  # noqa: PLR2004
            param = field[1] if field else None
            after_s = getattr(error, "retry_after_s", None) or RETRY_AFTER_S
            return ApiError(
                status, str(error), kind=name, param=param, code=code, retry_after_s=after_s
            )
    return ApiError(500, str(error), kind=SERVER, code=code)
