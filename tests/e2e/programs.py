"""Programs as processes of their own: run to their end, until Ctrl-C, or in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from tests import preloaded

PATIENCE_S: Final = 60.0
COMMAND: Final = (sys.executable, "-m", "dsi_mqtt.cli")


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended."""

    code: int
    out: str
    err: str


async def run_program(*command: str, stdin: str = "", patience_s: float = PATIENCE_S) -> Finished:
    """Runs it to its end. Raises TimeoutError after `patience_s`, and ends it then."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with _ending(process), asyncio.timeout(patience_s):
        out, err = await process.communicate(stdin.encode())
    return Finished(process.returncode or 0, out.decode(), err.decode())


async def dsi_mqtt(*arguments: str, stdin: str = "") -> Finished:
    """One command of the program."""
    return await run_program(*COMMAND, *arguments, stdin=stdin)


class Running:
    """A command that goes on until it is asked to end. Its output is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, text: str) -> str:
        """The next line of its output with `text` in it; fails when the command ends first."""
        return await self._line(self._process.stdout, text)

    async def complained(self, text: str) -> str:
        """The same of what it says beside its output."""
        return await self._line(self._process.stderr, text)

    async def begins(self, count: int) -> str:
        """The next `count` bytes of its output, which need not end a line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self._process.stdout.readexactly(count)).decode()

    async def _line(self, stream: asyncio.StreamReader | None, text: str) -> str:
        assert stream is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := (await stream.readline()).decode():
                self.lines.append(line)
                if text in line:
                    return line
        raise AssertionError(f"ended without saying {text!r}: {self.lines}, {await self.ended()}")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    async def ended(self) -> Finished:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self._process.communicate()
        return Finished(self._process.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Running]:
    """A command of the program, which has ended at the end."""
    async with running_program(*COMMAND, *arguments) as command:
        yield command


@asynccontextmanager
async def running_program(*command: str) -> AsyncIterator[Running]:
    """Any program, which has ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with _ending(process):
        yield Running(process)


class Terminal:
    """A command in a terminal of its own, 80 columns wide. shown: all that came on the screen."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self.shown = ""
        self.pid = process.pid
        self._descriptor = descriptor
        self._process = process
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            read = os.read(self._descriptor, 65536)
        except OSError:  # the other end is closed
            self.close()
        else:
            self.shown += read.decode(errors="replace")
        self._more.set()

    async def shows(self, text: str) -> None:
        """Waits until `text` has come on the screen."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.shown:
                self._more.clear()
                await self._more.wait()

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    async def ended(self) -> int:
        """The exit code."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)


@asynccontextmanager
async def in_terminal(*arguments: str) -> AsyncIterator[Terminal]:
    """A command of the program, which has ended at the end."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *("setsid", "--ctty", *COMMAND, *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
    )
    os.close(theirs)
    terminal = Terminal(ours, process)
    try:
        async with _ending(process):
            yield terminal
    finally:
        terminal.close()
        os.close(ours)


@asynccontextmanager
async def _ending(process: asyncio.subprocess.Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def left_over(*marks: str) -> list[str]:
    """The command lines of processes below this one that name one of `marks`."""
    lines = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    lines = [line for line in lines if any(mark in line for mark in marks)]
    return [*lines, *preloaded.living(*marks)]
