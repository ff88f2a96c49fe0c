"""Child processes of one command: started together, watched, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from dsi_mqtt.errors import DsiError

log = logging.getLogger(__name__)

PARENT: Final = "DSI_MQTT_PARENT"
STOP_S: Final = 5.0
RESTART_FIRST_S: Final = 0.5
RESTART_MAX_S: Final = 15.0
LINE_MAX: Final = 1 << 24
_SETTLED_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Asks the kernel to end this process when the command that started it ends."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(0)


@contextlib.asynccontextmanager
async def program(*command: str, stdin: int = DEVNULL) -> AsyncIterator[Process]:
    """Another program than `dsi-mqtt`, read by pipes, that does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,
        limit=LINE_MAX,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def check_ended(name: str, process: Process, complaint: bytes) -> None:
    """Raises DsiError with the last line of what a program that failed complained of."""
    if process.returncode == 0:
        return
    lines = complaint.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"status {process.returncode}"
    raise DsiError(f"{name} failed: {reason}")


class Started(Protocol):
    """A process, of which asyncio's is one."""

    pid: int

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


Start = Callable[[tuple[str, ...], IO[bytes]], Awaitable[Started]]


async def start_process(arguments: tuple[str, ...], output: IO[bytes]) -> Started:
    """`dsi-mqtt` with `arguments`; what it says and complains of goes to `output`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dsi_mqtt.cli",
        *arguments,
        stdin=DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, PARENT: str(os.getpid())},
        start_new_session=True,  # an interrupt at the terminal is the parent's to handle
    )


@dataclass(slots=True)
class Child:
    """One `dsi-mqtt` process. `process` is the present one; `arguments` follow the program."""

    name: str
    arguments: tuple[str, ...]
    process: Started
    watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.process.pid


class Children:
    """The children of a command.

    restart: a child that ends by itself is started again, later each time it does so quickly.
    ended: called with the child and its exit code whenever one ends by itself.
    start: makes a process of a command's arguments.
    """

    def __init__(
        self,
        logs: Path,
        *,
        restart: bool,
        ended: Callable[[Child, int], None] | None = None,
        start: Start = start_process,
    ) -> None:
        self._logs = logs
        self._start = start
        self._restart = restart
        self._ended = ended
        self._children: dict[str, Child] = {}

    async def start(self, name: str, *arguments: str) -> Child:
        child = Child(name, arguments, await self._spawn(name, arguments))
        child.watch = asyncio.create_task(self._watch(child), name=f"watch {name}")
        self._children[name] = child
        return child

    def child(self, name: str) -> Child:
        return self._children[name]

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def kill(self, name: str) -> None:
        """Ends a child as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self._children[name].process.kill()

    async def stop(self) -> None:
        """Ends all, politely at first: after `STOP_S` those that have not ended are killed."""
        children = list(self._children.values())
        self._children.clear()
        for child in children:
            if child.watch is not None:
                child.watch.cancel()
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        ends = {asyncio.create_task(child.process.wait()): child for child in children}
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=STOP_S)
        for end in late:
            with contextlib.suppress(ProcessLookupError):
                ends[end].process.kill()
        await asyncio.gather(*ends)

    async def _spawn(self, name: str, arguments: tuple[str, ...]) -> Started:
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log_path(name).open("ab") as output:
            return await self._start(arguments, output)

    async def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        wait_s = RESTART_FIRST_S
        while True:
            started = loop.time()
            code = await child.process.wait()
            if self._ended is not None:
                self._ended(child, code)
            if not self._restart:
                return
            if loop.time() - started > _SETTLED_S:
                wait_s = RESTART_FIRST_S
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RESTART_MAX_S)
            child.process = await self._spawn(child.name, child.arguments)
