"""An HTTP gateway that speaks OpenAI's API in front of deployments. Needs the extra `gateway`."""
