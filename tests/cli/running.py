"""The program within the test's process: how it is run, and what a person saw."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from dsi_mqtt.errors import MESSAGE_MAX

DEPLOYMENT = """
schema: dsi.deployment/1
name: echo
model: {tier: fake}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one line on standard error."""
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = self.err.splitlines()
        begin = "dsi-mqtt: "
        assert line.startswith(begin)
        assert len(line) - len(begin) <= MESSAGE_MAX
        return line.removeprefix(begin)


Run = Callable[..., Ended]


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A broker that answers every CONNECT with `answer` and hangs up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
