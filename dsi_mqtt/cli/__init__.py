"""The command line. One file a command; `program` puts them together."""

from __future__ import annotations

import os
import signal
from typing import Final

INTERRUPTED: Final = 130


def main() -> None:
    """Entry point of `dsi-mqtt`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, _leave)
    # Modules of this folder also run by themselves, and must not load the whole program.
    from dsi_mqtt.cli.program import program  # noqa: PLC0415

    program()


def loaded() -> None:
    """What a command needs is imported: from now on an interrupt is the command's to handle."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: object) -> None:
    """While modules are imported nothing needs an end, and where they are is nobody's business.

    An exception would not do: some modules take one in their imports for something else.
    """
    os._exit(INTERRUPTED)
