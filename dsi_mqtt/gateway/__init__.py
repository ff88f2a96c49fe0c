"""An HTTP gateway that speaks OpenAI's API in front of deployments. Needs `dsi-mqtt[gateway]`."""
