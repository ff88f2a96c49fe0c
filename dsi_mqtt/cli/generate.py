"""`dsi-mqtt generate`: a prompt in, text out as it comes."""

from __future__ import annotations

import json as json_module
import sys
from typing import Annotated, Any, Final

import typer

from dsi_mqtt.cli.common import (
    DEFAULT_URL,
    ROOT,
    BrokerOption,
    JsonOption,
    RootOption,
    control_connection,
    marker,
)
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.client import Client, TextGeneration
from dsi_mqtt.client.generation import Turns
from dsi_mqtt.errors import ConfigError, WireError
from dsi_mqtt.transport.loop import run
from dsi_mqtt.transport.retained import read_retained
from dsi_mqtt.wire.asks import completion_body
from dsi_mqtt.wire.topics import Topics, check_name

SCHEMA: Final = "dsi.generation/1"


MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Most tokens to generate.")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", min=0, help="Of so many likeliest tokens.")
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", min=0.0, max=1.0, help="Of the likeliest with this share."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="The same seed gives the same text.")
]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="End before this text; may be given again.")
]


def generate(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    prompt: Annotated[str, typer.Argument(help="A text; - reads it from standard input.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as a user of the model's chat template.")
    ] = False,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    stop: StopOption = None,
    json: JsonOption = False,
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    timeout: Annotated[float, typer.Option(help="Seconds for all of it.")] = 600.0,
) -> None:
    """Generate text from a prompt.

    It is shown as it comes; Ctrl-C cancels it.
    """
    record = run_record("generate", seed=seed) if json else None
    check_name(name, "name")
    # The newline that ends it is the shell's.
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt
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
    asked = [{"role": "user", "content": text}] if chat else text

    async def ask() -> None:
        await _check_kind(broker, Topics(root), name)
        async with Client(broker, root=root) as client:
            await _ask(client, name, asked, settings, record)

    run(ask())


async def _check_kind(url: str, topics: Topics, name: str) -> None:
    """Raises ConfigError for a model that answers in one pass: a prompt makes no sense to it."""
    async with control_connection(url) as connection:
        specs = await read_retained(connection, [topics.spec.name(deployment=name)], marker(topics))
    for message in specs:
        try:
            kind = topics.spec.payload.decode(message.payload).kind
        except WireError:
            continue  # its orchestrator complains
        if kind != "generation":
            raise ConfigError(f"{name} is {kind}, it generates no text; use `dsi-mqtt infer`")


async def _ask(
    client: Client,
    name: str,
    asked: str | Turns,
    settings: dict[str, Any],
    record: dict[str, Any] | None,
) -> None:
    """record: of this run, where the answer is wanted as one object."""
    generation = client.generate(name, asked, **settings)
    if record is None:
        await _show(generation)
    else:
        await generation
        print(json_module.dumps({"schema": SCHEMA, **record, **_document(generation)}))
    if generation.completion.fallback:
        told = f"the fallback of {name} told this, for its own model cannot serve"
        print(f"dsi-mqtt: {told}", file=sys.stderr)


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
    completion = generation.completion
    return {
        "seed": generation.seed,
        "fallback": completion.fallback,
        **json_module.loads(completion_body(completion)),
    }


def _printable(text: str) -> str:
    """Half a character may be among what a model says, and no terminal takes it."""
    return text.encode(errors="replace").decode()
