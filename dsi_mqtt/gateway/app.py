"""The routes: OpenAI's API in front of what the catalogue lists."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dsi_mqtt.core.deployment import Generation
from dsi_mqtt.core.generation import Completion
from dsi_mqtt.core.sizes import MIB
from dsi_mqtt.core.stream import Piece
from dsi_mqtt.errors import DsiError, RequestError, TransportError
from dsi_mqtt.gateway import asks, replies
from dsi_mqtt.gateway.base import Asker, Askers, Generating
from dsi_mqtt.gateway.catalogue import Catalogue, Model
from dsi_mqtt.gateway.keys import Keys
from dsi_mqtt.gateway.presence import EventStream, GoneError, kept_alive, while_there
from dsi_mqtt.gateway.refusals import LIMITED, SERVER, ApiError, api_error, unknown_model

log = logging.getLogger(__name__)

BODY_MAX: Final = 4 * MIB
BODY_S: Final = 60.0
OPEN_MAX: Final = 256
TIMEOUT_S: Final = 600.0
SILENT_S: Final = 15.0
INFER_AT_ONCE: Final = 8
EVERYBODY: Final = ""

# Of texts, with the number of tokens that they have.
Vectors = tuple[list[list[float]], int]
Read = Callable[[asks.Body, Generation], asks.Wanted]


class Gateway:
    """What the routes need, and what is bounded.

    askers: one for each owner of a key. keys: None admits everybody, as one owner. body_max: bytes
    of a request; body_s: in which they must come. open_max: requests at once. timeout_s: for one
    of them. silent_s: after which a stream says that it is there.
    """

    def __init__(
        self,
        askers: Askers,
        catalogue: Catalogue,
        keys: Keys | None,
        *,
        body_max: int = BODY_MAX,
        body_s: float = BODY_S,
        open_max: int = OPEN_MAX,
        timeout_s: float = TIMEOUT_S,
        silent_s: float = SILENT_S,
    ) -> None:
        self._askers = askers
        self._catalogue = catalogue
        self._keys = keys
        self._body_max = body_max
        self._body_s = body_s
        self._open_max = open_max
        self._timeout_s = timeout_s
        self._silent_s = silent_s
        self._open = 0

    def app(self) -> FastAPI:
        # No pages that describe the API: it is OpenAI's, and they would load from elsewhere.
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        api = APIRouter(prefix="/v1", dependencies=[Depends(self.admit)])
        for path, answer, method in (
            ("/models", self.list_models, "GET"),
            ("/models/{name}", self.show_model, "GET"),
            ("/chat/completions", self.chat, "POST"),
            ("/completions", self.complete, "POST"),
            ("/embeddings", self.embed, "POST"),
        ):
            api.add_api_route(path, answer, methods=[method], response_model=None)
        app.include_router(api)
        app.add_api_route("/health", self.health, methods=["GET"], response_model=None)
        app.add_exception_handler(ApiError, _refuse)
        app.add_exception_handler(DsiError, _refuse)
        app.add_exception_handler(HTTPException, _refuse)
        app.add_exception_handler(GoneError, _nobody)
        app.add_exception_handler(ClientDisconnect, _nobody)
        app.add_exception_handler(Exception, _fault)
        return app

    # --- what is asked ------------------------------------------------------------------------

    async def admit(
        self, request: Request, authorization: Annotated[str | None, Header()] = None
    ) -> None:
        owner = EVERYBODY if self._keys is None else self._keys.owner(authorization)
        if owner is None:
            raise ApiError(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        request.state.owner = owner

    async def health(self) -> Response:
        """Whether a request could be served now."""
        if not self._catalogue.connected:
            return JSONResponse({"status": "the broker is away"}, 503)
        return JSONResponse({"status": "ok", "models": len(self._catalogue.all())})

    async def list_models(self) -> Response:
        data = [replies.model_object(model) for model in self._catalogue.all()]
        return JSONResponse({"object": "list", "data": data})

    async def show_model(self, name: str) -> Response:
        return JSONResponse(replies.model_object(self._model(name)))

    async def chat(self, request: Request) -> Response:
        return await self._generate(request, asks.read_chat, chat=True)

    async def complete(self, request: Request) -> Response:
        return await self._generate(request, asks.read_completion, chat=False)

    async def embed(self, request: Request) -> Response:
        with self._admitted():
            body = asks.read_body(await self._payload(request))
            model = self._model(asks.model_of(body))
            if model.generates:
                advice = "use /v1/chat/completions or /v1/completions"
                raise _wrong_kind(model, f"generates text; {advice}")
            wanted = asks.read_embeddings(body)
            asker = await self._askers(request.state.owner)
            found = await while_there(request, self._vectors(asker, model, wanted.texts))
        vectors, tokens = found
        reply = replies.embeddings(model.spec.name, vectors, tokens, as_base64=wanted.base64)
        return JSONResponse(reply)

    # --- generations --------------------------------------------------------------------------

    async def _generate(self, request: Request, read: Read, *, chat: bool) -> Response:
        with ExitStack() as opened:
            opened.enter_context(self._admitted())
            body = asks.read_body(await self._payload(request))
            model = self._model(asks.model_of(body))
            if not model.generates:
                raise _wrong_kind(model, "generates no text; use /v1/embeddings")
            wanted = read(body, model.spec.limits)
            shape = replies.ReplyShape(
                f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
                model.spec.name,
                int(time.time()),
                chat=chat,
                include_usage=wanted.include_usage,
            )
            asker = await self._askers(request.state.owner)
            generation = asker.generate(
                model.spec.name, wanted.prompt, timeout_s=self._timeout_s, **wanted.settings
            )
            if not wanted.stream:
                completion = await while_there(request, _whole(generation))
                _note(shape, completion)
                return _json(shape.whole(completion))
            opened.callback(generation.cancel)
            pieces = aiter(generation)
            first = asyncio.ensure_future(_next(pieces))
            # An error that nobody waits for any more is no event.
            first.add_done_callback(lambda done: done.cancelled() or done.exception())
            opened.callback(first.cancel)
            # It begins with the first piece: what goes wrong before has a status of its own. But
            # it begins in time: whoever waits for a status gives up as well.
            await while_there(request, asyncio.wait({first}, timeout=self._silent_s))
            if first.done():
                first.result()
            end = opened.pop_all().close
        events = _events(first, pieces, generation, shape)
        return EventStream(kept_alive(events, self._silent_s), end)

    # --- inside -------------------------------------------------------------------------------

    def _model(self, name: str) -> Model:
        model = self._catalogue.get(name)
        if model is None:
            raise unknown_model(name)
        return model

    async def _payload(self, request: Request) -> bytes:
        """The body, of which no more is read than may be sent."""
        payload = bytearray()
        try:
            async with asyncio.timeout(self._body_s):
                async for part in request.stream():
                    payload += part
                    if len(payload) > self._body_max:
                        sentence = f"the body has more than {self._body_max} bytes; send less"
                        raise ApiError(413, sentence)
        except TimeoutError:
            sentence = f"the body has not come within {self._body_s:g} s; send it at once"
            raise ApiError(408, sentence) from None
        return bytes(payload)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._open >= self._open_max:
            sentence = f"{self._open} requests are open here; ask again later"
            raise ApiError(429, sentence, kind=LIMITED, code="overloaded")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def _vectors(self, asker: Asker, model: Model, texts: list[str]) -> Vectors:
        """In as many inputs as the deployment's batches need. Raises RequestError or ApiError."""
        size = model.spec.input.batch_max
        room = asyncio.Semaphore(INFER_AT_ONCE)

        async def infer(batch: list[str]) -> Vectors:
            async with room:
                answer = await asker.infer(model.spec.name, batch, timeout_s=self._timeout_s)
            return _vectors_of(model, answer)

        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        tasks = [asyncio.ensure_future(infer(batch)) for batch in batches]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [vector for vectors, _ in found for vector in vectors], sum(n for _, n in found)


def _vectors_of(model: Model, answer: Any) -> Vectors:  # noqa: ANN401 - JSON
    """Of one batch. A model of somebody's own may not count its tokens."""
    told = answer if isinstance(answer, dict) else {}
    vectors, usage = told.get("embeddings"), told.get("usage")
    if not isinstance(vectors, list):
        raise _wrong_kind(model, "makes no embeddings")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return vectors, tokens if isinstance(tokens, int) else 0


async def _whole(generation: Generating) -> Completion:
    return await generation


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


async def _events(
    first: Awaitable[Piece | None],
    pieces: AsyncIterator[Piece],
    generation: Generating,
    shape: replies.ReplyShape,
) -> AsyncIterator[bytes]:
    for reply in shape.first():
        yield replies.event(reply)
    sent = False
    try:
        piece = await first
        while piece is not None:
            if piece.replaces and sent:
                # What was sent cannot be taken back here, and must not be taken for the text.
                sentence = "another door took over and tells another text; ask again"
                yield replies.event(ApiError(500, sentence, kind=SERVER, code="replaced").body)
                return
            if piece.text:
                sent = True
                yield replies.event(shape.text(piece.text))
            piece = await anext(pieces, None)
    except (RequestError, TransportError) as error:
        yield replies.event(api_error(error).body)
        return
    _note(shape, generation.completion)
    for reply in shape.last(generation.completion):
        yield replies.event(reply)
    yield replies.DONE


def _note(shape: replies.ReplyShape, completion: Completion) -> None:
    log.info(
        "%s of %s: %d tokens from a prompt of %d",
        shape.id,
        shape.model,
        len(completion.tokens),
        completion.prompt_tokens,
    )


def _wrong_kind(model: Model, what: str) -> ApiError:
    return ApiError(
        400, f"the model {model.spec.name!r} {what}", param="model", code="model_not_supported"
    )


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # Half a character, which a model or a client may say, is escaped: UTF-8 has no such.
    text = json.dumps(value, separators=(",", ":"))
    return Response(text, status, headers, media_type="application/json")


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{error.detail}; see the paths of OpenAI's API")
    refused = error if isinstance(error, ApiError) else None
    if isinstance(error, DsiError):
        refused = api_error(error)
    if refused is None:
        raise error
    return _json(refused.body, refused.status, refused.headers)


async def _nobody(_: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # reaches nobody


async def _fault(_: Request, error: Exception) -> Response:
    fault = ApiError(500, f"this should not happen: {type(error).__name__}", kind=SERVER)
    return _json(fault.body, fault.status)
