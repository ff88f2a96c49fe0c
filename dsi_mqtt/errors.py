"""Every error this package raises, in one tree.

    DsiError
    ├── ConfigError            a file, option or name given by a person is wrong
    │   └── UnknownDeploymentError   no such deployment on this broker
    ├── CheckpointError        a model folder cannot be used as it is
    ├── SplitError             a split of this model would compute something else
    ├── InfeasibleError        no placement satisfies the constraints
    ├── MachineError           this machine lacks something (a program, a port, memory)
    │   ├── PortInUseError           another program has it
    │   └── BaselineError            what a benchmark compares with cannot be built
    ├── WireError              bytes from elsewhere are not what they claim to be
    │   └── TooLargeError      … or larger than agreed
    ├── TransportError
    │   ├── BrokerUnreachableError   nothing answers at that address
    │   ├── BrokerRefusedError       the broker answers and says no
    │   └── ConnectionLostError      an established connection ended
    ├── SessionStaleError      a segment lacks positions of a session that it is to continue
    └── RequestError           one request has no result; carries the code the device is told
        ├── InvalidInputError        the input cannot be read or has the wrong shape
        ├── DeadlineError            no result in time
        ├── UnavailableError         no feasible chain serves this deployment now
        ├── OverloadedError          the queue is full; try later
        ├── ModelFailedError         the model raised on this input
        ├── PoisonError              the input has ended its worker repeatedly
        └── RequestCancelledError    its device wants it no more, or is gone

A sentence says what is wrong and what to do, names the field or file, and has at most
200 characters. `exit_code` is what a command ends with (documented in docs/operations.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

MESSAGE_MAX: Final = 200


def one_sentence(text: str) -> str:
    """The text on one line, at most `MESSAGE_MAX` characters: nothing else reaches a user."""
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_MAX else line[: MESSAGE_MAX - 1].rstrip() + "…"


class DsiError(Exception):
    """Base of all. `str(error)` is the sentence a user may read."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_sentence(message))


class ConfigError(DsiError):
    exit_code: ClassVar[int] = 3


class UnknownDeploymentError(ConfigError):
    pass


class CheckpointError(DsiError):
    exit_code: ClassVar[int] = 4


class SplitError(DsiError):
    exit_code: ClassVar[int] = 4


class InfeasibleError(DsiError):
    exit_code: ClassVar[int] = 5


class MachineError(DsiError):
    """This machine lacks something: a program, a free port, memory."""

    exit_code: ClassVar[int] = 6


class PortInUseError(MachineError):
    """Another program listens where one of ours should."""


class BaselineError(MachineError):
    """What a benchmark compares with cannot be built: without it no figure is shown."""

    exit_code: ClassVar[int] = 2


class WireError(DsiError):
    pass


class TooLargeError(WireError):
    pass


class TransportError(DsiError):
    exit_code: ClassVar[int] = 7


class BrokerUnreachableError(TransportError):
    pass


class BrokerRefusedError(TransportError):
    pass


class ConnectionLostError(TransportError):
    pass


class SessionStaleError(DsiError):
    """Nothing was computed. have: for each session that lacks positions, how many it has."""

    def __init__(self, have: Mapping[str, int]) -> None:
        super().__init__(f"positions of {len(have)} sessions are missing here")
        self.have = dict(have)


class RequestError(DsiError):
    """One request has no result.

    `code` is stable and travels to the device in the error answer. `retry_after_s`: seconds after
    which it may be worth another try, where the answer tells them.
    """

    code: str = "failed"
    retry_after_s: int | None = None
    exit_code: ClassVar[int] = 8


class InvalidInputError(RequestError):
    code = "invalid_input"


class DeadlineError(RequestError):
    code = "deadline"


class UnavailableError(RequestError):
    code = "unavailable"


class OverloadedError(RequestError):
    code = "overloaded"


class ModelFailedError(RequestError):
    code = "model_failed"


class PoisonError(RequestError):
    code = "poison"


class RequestCancelledError(RequestError):
    code = "cancelled"


REQUEST_ERRORS: Final[dict[str, type[RequestError]]] = {
    kind.code: kind
    for kind in (
        RequestError,
        InvalidInputError,
        DeadlineError,
        UnavailableError,
        OverloadedError,
        ModelFailedError,
        PoisonError,
        RequestCancelledError,
    )
}


def request_error(code: str, message: str, retry_after_s: int | None = None) -> RequestError:
    """The error for a code received from elsewhere; with an unknown code a plain `RequestError`."""
    error = REQUEST_ERRORS.get(code, RequestError)(message)
    error.code = code
    error.retry_after_s = retry_after_s
    return error
