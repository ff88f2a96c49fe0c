"""The command line. One file a command; `program` puts them together."""

from __future__ import annotations


def main() -> None:
    """Entry point of `dsi-mqtt`."""
    # Modules of this folder also run by themselves, and must not load the whole program.
    from dsi_mqtt.cli.program import program  # noqa: PLC0415

    program()
