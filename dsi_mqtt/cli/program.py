"""All commands in one program, and what becomes of an error: one sentence and an exit code.

An error of ours brings its own code (`errors.py`). What each code means to whoever started the
program stands in docs/operations.md, and there alone.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from dsi_mqtt import __version__
from dsi_mqtt.cli import INTERRUPTED, loaded
from dsi_mqtt.cli.child import end_with_parent
from dsi_mqtt.errors import MESSAGE_MAX, DsiError, MachineError, one_sentence

NAME: Final = "dsi-mqtt"
FAULT: Final = 70  # of this program

_NO_SPACE: Final = (
    "no space is left where something is written (logs and brokers' state by default below "
    "~/.local/state/dsi-mqtt); free some, or give another folder"
)
_NO_FILES: Final = "this process may not open as many files as it needs; raise the limit: ulimit -n"
_NO_MEMORY: Final = "this machine has not as much memory as this takes; end something else on it"
# What a machine may lack anywhere and at any time.
_LACKING: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
    errno.ENOMEM: _NO_MEMORY,
}

# Where each command stands, in the order of the help. A command loads its own module alone: with
# those of all others, `dsi-mqtt status` would take twice as long to start.
COMMANDS: Final = {
    "demo": "demo:demo",
    "up": "up:up",
    "broker": "broker:broker",
    "worker": "worker:worker",
    "orchestrator": "orchestrator:orchestrator",
    "deploy": "deploy:deploy",
    "undeploy": "deploy:undeploy",
    "infer": "infer:infer",
    "generate": "generate:generate",
    "gateway": "gateway:gateway",
    "status": "status:status",
    "explain": "explain:explain",
    "drain": "drain:drain",
    "plan": "plan:plan",
    "profile": "profile:profile",
    "doctor": "doctor:doctor",
    "simulate": "simulate:simulate",
    "evaluate": "evaluate:evaluate",
    "chaos": "chaos:chaos",
    "bench": "bench:app",
}


def command(name: str) -> Any:  # noqa: ANN401 - typer keeps the type of its commands to itself
    """The one of `COMMANDS`."""
    module, _, member = COMMANDS[name].partition(":")
    found = getattr(import_module(f"dsi_mqtt.cli.{module}"), member)
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(found)
    return get_command(alone)


class _Commands(UserDict[str, Any]):
    """All commands, each loaded when it is asked for."""

    def __init__(self) -> None:
        super().__init__(COMMANDS)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - as `command`
        super().__getitem__(name)
        return command(name)


class _Program(TyperGroup):
    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - whatever typer gives
        super().__init__(**settings)
        self.commands = _Commands()


app = typer.Typer(
    name=NAME,
    cls=_Program,
    help="Split one model over several edge gateways, over MQTT, orchestrated at run time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say everything, tracebacks included.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Split one model over several edge gateways, over MQTT, orchestrated at run time."""
    loaded()  # typer finds the command, and so its module, before it calls this
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname).1s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "httpcore", "urllib3", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def program() -> None:
    """Runs the command line and ends the process with its exit code."""
    end_with_parent()
    try:
        result = app(prog_name=NAME, standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()  # what fails at the program's end is told by Python, in words of its own
    except TyperException as error:
        code = _report_usage(error)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BaseException as error:  # noqa: BLE001 — no traceback may reach a user
        code = _report(error)
    sys.exit(code)


def _report_usage(error: TyperException) -> int:
    context, message = getattr(error, "ctx", None), error.format_message()
    command = context.command_path if context is not None else NAME
    if context is not None and message == context.get_help():
        print(message, file=sys.stderr)  # nothing was asked for
        return error.exit_code
    sentence = one_sentence(message).rstrip(".")
    advice = f"; see `{command} --help`"
    print(f"{NAME}: {sentence[: MESSAGE_MAX - len(advice)]}{advice}", file=sys.stderr)
    return error.exit_code


def _report(error: BaseException) -> int:
    cause = _first_cause(error)
    if isinstance(cause, BrokenPipeError) or (
        # typer ends the program with 1 where it meets one.
        isinstance(cause, SystemExit) and isinstance(cause.__context__, BrokenPipeError)
    ):
        # Whoever read our output has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(cause, SystemExit):
        return cause.code if isinstance(cause.code, int) else FAULT
    logging.getLogger(__name__).debug("what happened", exc_info=error)
    if isinstance(cause, DsiError):
        print(f"{NAME}: {cause}", file=sys.stderr)
        for note in getattr(cause, "__notes__", ()):
            print(f"note: {note}", file=sys.stderr)
        return cause.exit_code
    if isinstance(cause, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    lacking = _lacking(cause)
    if lacking is not None:
        print(f"{NAME}: {lacking}", file=sys.stderr)
        return MachineError.exit_code
    told = f"this should not happen (-v shows where): {type(cause).__name__}: {cause}"
    print(f"{NAME}: {one_sentence(told)}", file=sys.stderr)
    return FAULT


def _lacking(error: BaseException) -> str | None:
    """What this machine lacks, where that is what the error says."""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if not isinstance(error, OSError):
        return None
    sentence = _LACKING.get(error.errno)
    named = sentence is not None and isinstance(error.filename, str)
    return f"{error.filename}: {sentence}" if named else sentence


def _first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
