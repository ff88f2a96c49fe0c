"""docs/generation.md names the status that each error has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dsi_mqtt.errors import REQUEST_ERRORS, UnknownDeploymentError, request_error
from dsi_mqtt.gateway.refusals import api_error

TEXT = (Path(__file__).parents[2] / "docs" / "generation.md").read_text("utf-8")
ROWS = TEXT.split("| code | status |")[1].split("\n\n")[0].splitlines()


def told(code: str) -> int:
    (row,) = [row for row in ROWS if f"`{code}`" in row]
    return int(re.findall(r"\b\d{3}\b", row)[0])


@pytest.mark.parametrize("code", REQUEST_ERRORS)
def test_the_status_of_each_code_is_the_documented_one(code: str) -> None:
    refused = api_error(request_error(code, "why"))
    assert (refused.status, refused.code) == (told(code), code)


def test_so_is_that_of_an_unknown_model() -> None:
    refused = api_error(UnknownDeploymentError("why"))
    assert (refused.status, refused.code) == (told("model_not_found"), "model_not_found")


def test_a_client_is_told_to_come_back_when_the_door_says_so() -> None:
    refused = api_error(request_error("overloaded", "why", 17))
    assert refused.headers == {"Retry-After": "17"}
    assert api_error(request_error("overloaded", "why")).headers == {"Retry-After": "2"}
