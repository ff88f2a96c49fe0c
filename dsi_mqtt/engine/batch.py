"""How many rows one input may bring: only the prelude knows, for it alone reads the input."""

from __future__ import annotations

from dsi_mqtt.errors import InvalidInputError


def check_batch(rows: int, batch_max: int | None) -> None:
    """Raises InvalidInputError when `rows` are more than the deployment takes at once."""
    if batch_max is not None and rows > batch_max:
        raise InvalidInputError(
            f"the input has {rows} rows; this deployment takes {batch_max} at once "
            "(input.batch_max); send fewer"
        )
