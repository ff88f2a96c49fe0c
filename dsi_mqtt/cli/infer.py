"""`dsi-mqtt infer`: inputs in, results out."""

from __future__ import annotations

import asyncio
import json as json_module
import mimetypes
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dsi_mqtt.cli.common import DEFAULT_URL, ROOT, BrokerOption, JsonOption, RootOption
from dsi_mqtt.cli.run_record import run_record
from dsi_mqtt.client import Answer, Client
from dsi_mqtt.core.activation import OCTETS
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.errors import ConfigError, RequestError, one_sentence, request_error
from dsi_mqtt.transport.loop import run
from dsi_mqtt.wire.topics import check_name

SCHEMA: Final = "dsi.answers/1"
AT_ONCE: Final = 8
FILE_MAX: Final = 256 * MIB  # no MQTT message is larger


def infer(
    name: Annotated[str, typer.Argument(help="The deployment's name.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads one a line from standard input.")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="A file to send as it is.")
    ] = None,
    content_type: Annotated[
        str | None,
        typer.Option(help="Of the files, like text/plain; by default what their names tell."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--parse", help="The inputs are JSON values, not texts.")
    ] = False,
    json: JsonOption = False,
    broker: BrokerOption = DEFAULT_URL,
    root: RootOption = ROOT,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each.")] = 60.0,
) -> None:
    """Send inputs and print the results.

    One JSON value a line, in the order of the inputs.
    """
    record = run_record("infer") if json else None
    check_name(name, "name")
    bodies = [
        *_texts(inputs or [], as_json=as_json),
        *(_file(path, content_type) for path in file or []),
    ]
    if not bodies:
        raise ConfigError("inputs: nothing to send; give a text, - or --file")
    told = run(_infer(Client(broker, root=root), name, bodies, content_type, timeout, json=json))
    failed = [answer for answer in told if isinstance(answer, RequestError)]
    by_fallback = sum(isinstance(answer, Answer) and answer.fallback for answer in told)
    if by_fallback:
        print(_fallback_note(name, by_fallback, len(bodies)), file=sys.stderr)
    if record is not None and (len(bodies) > 1 or not failed):
        answers = [_document(answer) for answer in told]
        document = {"schema": SCHEMA, **record, "answers": answers}
        print(json_module.dumps(document, ensure_ascii=False))
    if failed and len(bodies) > 1:
        raise type(failed[0])(
            f"{len(failed)} of {len(bodies)} inputs have no result; their lines say why"
        )
    if failed:
        raise failed[0]


async def _infer(
    client: Client,
    name: str,
    bodies: list[tuple[Any, str | None]],
    content_type: str | None,
    timeout_s: float,
    *,
    json: bool,
) -> list[Answer | RequestError]:
    """Prints each answer, unless they are wanted as one object. A lone error is left to whoever
    asked.

    content_type: as it was asked for; that of a file is else told by its name.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def one(body: Any, kind: str | None) -> Answer | RequestError:  # noqa: ANN401 - any JSON value
        async with room:
            try:
                return await client.infer_answer(name, body, content_type=kind, timeout_s=timeout_s)
            except RequestError as error:
                taken_for = isinstance(body, bytes) and content_type is None
                return _advised(error, kind or OCTETS) if taken_for else error

    told: list[Answer | RequestError] = []
    async with client:
        answers = [asyncio.create_task(one(body, kind)) for body, kind in bodies]
        for answer in answers:
            told.append(await answer)
            if not json and (len(bodies) > 1 or isinstance(told[-1], Answer)):
                line = told[-1].result if isinstance(told[-1], Answer) else _document(told[-1])
                print(json_module.dumps(line, ensure_ascii=False), flush=True)
    return told


def _document(told: Answer | RequestError) -> dict[str, Any]:
    if isinstance(told, Answer):
        return {"result": told.result, "fallback": told.fallback}
    return {"error": {"code": told.code, "message": str(told)}}


def _fallback_note(name: str, answers: int, inputs: int) -> str:
    many = "" if inputs == 1 else f" {answers} of {inputs} inputs"
    return f"dsi-mqtt: the fallback of {name} answered{many}, for its own model cannot serve"


def _advised(error: RequestError, kind: str) -> RequestError:
    """Says how to send a file as something else, where it is refused for what it was taken for."""
    if repr(kind) not in str(error):
        return error
    return request_error(error.code, one_sentence(f"{error}; give --content-type TYPE"))


def _texts(inputs: list[str], *, as_json: bool) -> list[tuple[Any, str | None]]:
    texts: list[str] = []
    for text in inputs:
        texts += _lines(sys.stdin.read()) if text == "-" else [text]
    if not as_json:
        return [(text, None) for text in texts]
    return [(_parsed(number, text), None) for number, text in enumerate(texts, 1)]


def _lines(text: str) -> list[str]:
    """Each an input, empty ones too: results are told apart by their order."""
    return text.removesuffix("\n").split("\n") if text else []


def _parsed(number: int, text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json_module.loads(text)
    except (ValueError, RecursionError) as error:
        told = f"--parse was given, but input {number} is no JSON: {error}"
        raise ConfigError(f"inputs: {told}") from None


def _file(path: Path, content_type: str | None) -> tuple[bytes, str | None]:
    try:
        with path.open("rb") as file:  # which may be one without an end
            body = file.read(FILE_MAX + 1)
        if len(body) > FILE_MAX:
            raise ConfigError(f"{path}: is over {FILE_MAX >> 20} MiB, more than an input may have")
        return body, content_type or mimetypes.guess_type(path.name)[0]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
