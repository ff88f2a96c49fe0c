"""Which inputs a door refuses at once, and the sentence it says why with."""

from __future__ import annotations

from dsi_mqtt.core.deployment import Deployment
from dsi_mqtt.core.message import Failure
from dsi_mqtt.core.request import CORRELATION_MAX, DEVICE_MAX, LEVELS_MAX, Input


def complaint(given: Input, spec: Deployment) -> Failure | None:
    """Why `given` cannot be served, or None."""
    sentence = _sentence(given, spec)
    return Failure("invalid_input", sentence) if sentence is not None else None


def _sentence(given: Input, spec: Deployment) -> str | None:
    if given.retained:
        return "inputs must not be retained; publish without the retain flag"
    if given.parsed.complaint is not None:
        return given.parsed.complaint
    if given.nbytes > spec.input.max_bytes:
        return (
            f"input of {given.nbytes} bytes is over input.max_bytes {spec.input.max_bytes}; "
            "send less"
        )
    return _address(given)


def _address(given: Input) -> str | None:
    """What is wrong with where the answer shall go, which a door has to remember with it."""
    if len(given.device) > DEVICE_MAX:
        return f"a device's name of {len(given.device)} characters is over {DEVICE_MAX}; shorten it"
    if given.correlation is not None and len(given.correlation) > CORRELATION_MAX:
        return (
            f"Correlation Data of {len(given.correlation)} bytes is over {CORRELATION_MAX}; "
            "send less"
        )
    if given.foreign_topic:
        return (
            f"the Response Topic must lie below this device's own …/out/{given.device[:60]}/ and "
            f"have at most {LEVELS_MAX} levels; use one that does, or none"
        )
    return None
