"""What a caller gives, as the body of an input."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from dsi_mqtt.core.activation import JSON, NPY, OCTETS
from dsi_mqtt.errors import InvalidInputError


def input_body(inputs: Any, content_type: str | None = None) -> tuple[bytes, str]:  # noqa: ANN401 - any JSON value
    """The bytes and their Content Type. Raises InvalidInputError for what is no JSON value."""
    if isinstance(inputs, (bytes, bytearray, memoryview)):
        return bytes(inputs), content_type or OCTETS
    if isinstance(inputs, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, inputs, allow_pickle=False)
        return buffer.getvalue(), NPY
    try:
        return json.dumps({"input": inputs}, allow_nan=False).encode(), JSON
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"inputs are no JSON value: {error}") from None
