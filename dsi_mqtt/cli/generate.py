"""`dsi-mqtt generate`: a prompt in, text out as it comes."""

from __future__ import annotations

import json as json_module
import sys
from typing import Annotated, Any, Final

import typer

from dsi_mqtt.cli.common import DEFAULT_URL, ROOT, BrokerOption, JsonOption, RootOption
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.client import Client, TextGeneration
from dsi_mqtt.errors import ConfigError
from dsi_mqtt.transport.loop import run
from dsi_mqtt.wire.asks import completion_body
from dsi_mqtt.wire.topics import check_name

SCHEMA: Final = "dsi.generation/1"


def generate(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    prompt: Annotated[str, typer.Argument(help="A text; - reads it from standard input.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as a user of the model's chat template.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 takes the likeliest token.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Of so many likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Of the likeliest with this share.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same text.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given again.")
    ] = None,
    json: JsonOption = False,
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    timeout: Annotated[float, typer.Option(help="Seconds for all of it.")] = 600.0,
) -> None:
    """Generate text from a prompt.

    It is shown as it comes; Ctrl-C cancels it.
    """
    record = run_record("generate", seed=seed)
    check_name(name, "name")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise ConfigError("prompt: is empty; give a text, or - and a text on standard input")
    settings: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
        "timeout_s": timeout,
    }

    async def ask() -> None:
        async with Client(broker, root=root) as client:
            asked = [{"role": "user", "content": text}] if chat else text
            generation = client.generate(name, asked, **settings)
            if json:
                await generation
                print(json_module.dumps({"schema": SCHEMA, **record, **_document(generation)}))
            else:
                await _show(generation)

    run(ask())


async def _show(generation: TextGeneration) -> None:
    shown = False
    try:
        async for piece in generation:
            if piece.replaces:
                print()
                print("dsi-mqtt: another door took over, the text begins anew", file=sys.stderr)
            print(_printable(piece.text), end="", flush=True)
            shown = True
    finally:
        if shown:
            print(flush=True)


def _document(generation: TextGeneration) -> dict[str, Any]:
    return {"seed": generation.seed, **json_module.loads(completion_body(generation.completion))}


def _printable(text: str) -> str:
    """Half a character may be among what a model says, and no terminal takes it."""
    return text.encode(errors="replace").decode()
