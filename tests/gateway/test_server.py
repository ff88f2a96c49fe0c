"""Where the gateway listens, and where it does not."""

from __future__ import annotations

from contextlib import closing

import pytest

from dsi_mqtt.errors import ConfigError, MachineError
from dsi_mqtt.gateway.server import listen


@pytest.mark.parametrize("bind", ["127.0.0.1", "127.0.0.2"])
def test_it_listens_on_loopback(bind: str) -> None:
    with closing(listen(bind, 0, may_be_open=False)) as listening:
        assert listening.getsockname()[0] == bind


def test_elsewhere_only_where_it_may() -> None:
    with pytest.raises(ConfigError, match="would let anybody in; give --keys FILE"):
        listen("0.0.0.0", 0, may_be_open=False)
    with closing(listen("0.0.0.0", 0, may_be_open=True)) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"


def test_what_is_no_address_or_is_taken_is_named() -> None:
    with pytest.raises(ConfigError, match="'here' is no IP address"):
        listen("here", 0, may_be_open=True)
    with closing(listen("127.0.0.1", 0, may_be_open=False)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(MachineError, match=f"--port {port} on 127.0.0.1 is in use"):
            listen("127.0.0.1", port, may_be_open=False)
    with pytest.raises(MachineError, match="cannot be listened on"):
        listen("192.0.2.7", 0, may_be_open=True)
