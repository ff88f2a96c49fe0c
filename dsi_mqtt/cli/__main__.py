"""`python -m dsi_mqtt.cli` is `dsi-mqtt`."""

from dsi_mqtt.cli import main

main()
