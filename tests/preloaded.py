"""Processes of the program that are forked from one which has imported everything already.

A site has five processes, and each would take a second of a processor to import what it needs, or
five with torch. What runs in them is the program, from its command line to its exit code, on a
memory, signals and output of its own; only the imports are shared. Commands are also tested as
they are started by a person: tests/e2e/test_commands.py, tests/e2e/test_demo.py.

    python -m tests.preloaded DESCRIPTOR MODULE...

is the process to fork from. It imports the modules, and then takes asks from a socket: one message
each, JSON and two files. The program's output goes to the first; to the second goes a line with
its process id, and when it has ended one with its exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any, Final, NoReturn

from dsi_mqtt.cli import main
from dsi_mqtt.cli.child import PARENT, end_with_parent

LIGHT: Final = ("dsi_mqtt.cli.program", "dsi_mqtt.cli.orchestrator", "dsi_mqtt.cli.worker")
HEAVY: Final = (*LIGHT, "dsi_mqtt.engine.torch")
_MESSAGE_MAX: Final = 1 << 17


class Preloaded:
    """The process to fork from, begun when the first is asked for. commands: by process id."""

    def __init__(self, *modules: str) -> None:
        self.commands: dict[int, tuple[str, ...]] = {}
        self._modules = modules
        self._asks: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None

    async def start(self, arguments: tuple[str, ...], output: IO[bytes]) -> Forked:
        """`dsi-mqtt` with `arguments`, as `dsi_mqtt.cli.child.start_process` does it."""
        if self._asks is None:
            self._begin()
        assert self._asks is not None
        ends, told = os.pipe()
        ask = json.dumps({"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd()})  # noqa: PTH109 - a text
        socket.send_fds(self._asks, [ask.encode()], [output.fileno(), told])
        os.close(told)
        forked = Forked(ends)
        await forked.begun()
        self.commands[forked.pid] = arguments
        return forked

    def close(self) -> None:
        if self._asks is not None and self._server is not None:
            self._asks.close()
            self._server.wait()

    def _begin(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = (sys.executable, "-m", "tests.preloaded", str(theirs.fileno()), *self._modules)
        self._server = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, PARENT: str(os.getpid())}
        )
        theirs.close()


class Forked:
    """One process of the program. It is the child of another than this one."""

    def __init__(self, told: int) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self._told = told

    def __del__(self) -> None:
        os.close(self._told)

    async def begun(self) -> None:
        self.pid = int(await self._line())

    async def wait(self) -> int:
        while self.returncode is None:
            line = await self._line()
            # Several may wait; one of them has read it.
            if self.returncode is None:
                self.returncode = int(line)
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    async def _line(self) -> str:
        """The next line; none once all have been read."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        own = os.dup(self._told)  # a loop has one reader for a descriptor
        loop.add_reader(own, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(own)
            os.close(own)
        if self.returncode is not None:
            return ""
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self._told, 1)
            assert byte, "the process that processes are forked from has ended"
            line += byte
        return line.decode()


light = Preloaded(*LIGHT)
heavy = Preloaded(*HEAVY)


def living(*marks: str) -> Iterator[str]:
    """The commands of forked processes that live and name one of `marks`."""
    for pid, arguments in (*light.commands.items(), *heavy.commands.items()):
        command = " ".join(arguments)
        if any(mark in command for mark in marks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                yield command


def close() -> None:
    light.close()
    heavy.close()


# --- the process to fork from -------------------------------------------------------------------


def serve(asks: socket.socket) -> None:
    """Until nobody asks any more."""
    gc.freeze()
    tellers: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(asks, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in tellers:
                    selector.unregister(key.fd)
                    tell_end(key.fd, *tellers.pop(key.fd))
                    continue
                message, files, _, _ = socket.recv_fds(asks, _MESSAGE_MAX, 2)
                if not message:
                    return
                output, told = files
                pid = os.fork()
                if pid == 0:
                    be_the_program(json.loads(message), output)
                os.close(output)
                os.write(told, b"%d\n" % pid)
                process = os.pidfd_open(pid)
                tellers[process] = pid, told
                selector.register(process, selectors.EVENT_READ)


def tell_end(process: int, pid: int, told: int) -> None:
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(told)
    os.close(process)


def be_the_program(ask: dict[str, Any], output: int) -> NoReturn:
    """In a new process. It ends as any does, by the exit that the program raises."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(ask["cwd"])
    os.environ.clear()
    os.environ.update(ask["env"] | {PARENT: str(os.getppid())})
    sys.argv = ["dsi-mqtt", *ask["arguments"]]
    main()
    raise AssertionError("the program ends by an exit")


if __name__ == "__main__":
    end_with_parent()
    for name in sys.argv[2:]:
        importlib.import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
