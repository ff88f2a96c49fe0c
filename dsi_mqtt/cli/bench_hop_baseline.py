"""The plain C pair on libmosquitto that a hop is compared with, built where it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Final

from dsi_mqtt.errors import BaselineError

NAME: Final = "libmosquitto"
SOURCE: Final = "hop.c"

_COMPILERS: Final = ("cc", "gcc", "clang")
_BUILD_TIMEOUT_S: Final = 60.0
_INSTALL: Final = "install it: apt-get install gcc libc6-dev libmosquitto-dev"


def build_baseline(folder: Path) -> Path:
    """The program, built in `folder`. Raises BaselineError saying what to install."""
    compiler = _compiler()
    program = folder / "hop"
    with resources.as_file(resources.files("dsi_mqtt.cli.bench_data") / SOURCE) as source:
        command: list[str | Path] = [
            compiler,
            "-std=c11",
            "-O2",
            "-o",
            program,
            source,
            "-lmosquitto",
            "-lm",
        ]
        try:
            built = subprocess.run(  # noqa: S603 - a compiler of this machine on our own source
                command, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BaselineError(f"baseline: {compiler} cannot be run: {error}") from None
    if built.returncode != 0:
        raise BaselineError(_complaint(compiler, built.stderr))
    return program


def _compiler() -> str:
    wanted = os.environ.get("CC")
    for name in [wanted] if wanted else _COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    missing = f"CC={wanted}" if wanted else "a C compiler"
    raise BaselineError(f"baseline: {missing} is missing; {_INSTALL}")


def _complaint(compiler: str, output: str) -> str:
    # Named by the header, or by the linker when only the development files' link is missing.
    if "mosquitto.h" in output or "-lmosquitto" in output:
        return f"baseline: {NAME} is missing for C programs; {_INSTALL}"
    lines = [line for line in output.splitlines() if "error" in line] or output.splitlines()
    reason = lines[0] if lines else "it gave no reason"
    return f"baseline: {Path(compiler).name} cannot build {SOURCE}: {reason}"
