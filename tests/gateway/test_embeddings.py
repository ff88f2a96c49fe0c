"""Embeddings of one-pass deployments, as OpenAI's own client sees them."""

from __future__ import annotations

import openai
import pytest

from tests.client.door import Asked
from tests.gateway.gateways import Live


async def lengths(asked: Asked) -> None:
    """A vector for each text, as a deployment with task embedding answers."""
    assert len(asked.input) <= 2
    vectors = [[len(text), 0.5] for text in asked.input]
    usage = {"prompt_tokens": sum(map(len, asked.input))}
    await asked.result({"embeddings": vectors, "usage": usage})


@pytest.fixture(autouse=True)
def _embeds(live: Live) -> None:
    live.door.script = lengths


async def test_one_text(client: openai.AsyncOpenAI) -> None:
    reply = await client.embeddings.create(model="vectors", input="four")
    assert [item.embedding for item in reply.data] == [[4.0, 0.5]]
    assert (reply.model, reply.object) == ("vectors", "list")
    assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (4, 4)


async def test_many_texts_keep_their_order_over_the_batches_of_the_deployment(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    texts = ["x" * count for count in range(1, 8)]
    reply = await client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    assert [item.embedding[0] for item in reply.data] == [1, 2, 3, 4, 5, 6, 7]
    assert [item.index for item in reply.data] == list(range(7))
    assert reply.usage.total_tokens == sum(range(1, 8))
    assert len(live.door.inputs) == 4


async def test_what_makes_none_is_named(live: Live, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'chat' generates text; use /v1/chat"):
        await client.embeddings.create(model="chat", input="x")
    with pytest.raises(openai.BadRequestError, match="'vectors' generates no text"):
        await client.completions.create(model="vectors", prompt="x")

    async def labels(asked: Asked) -> None:
        await asked.result({"results": []})

    live.door.script = labels
    with pytest.raises(openai.BadRequestError, match="'vectors' makes no embeddings"):
        await client.embeddings.create(model="vectors", input=["x"] * 5)


async def test_an_error_of_one_batch_is_the_errors_of_all(
    live: Live, client: openai.AsyncOpenAI
) -> None:
    async def script(asked: Asked) -> None:
        if "bad" in asked.input:
            await asked.fail("model_failed", "it raised")
        else:
            await lengths(asked)

    live.door.script = script
    with pytest.raises(openai.UnprocessableEntityError, match="it raised"):
        await client.embeddings.create(model="vectors", input=["a", "b", "bad"])


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "many"}, 7])
async def test_a_model_that_counts_no_tokens_has_none(
    live: Live, client: openai.AsyncOpenAI, usage: object
) -> None:
    async def script(asked: Asked) -> None:
        await asked.result({"embeddings": [[1.0] for _ in asked.input], "usage": usage})

    live.door.script = script
    reply = await client.embeddings.create(model="vectors", input="x")
    assert reply.usage.total_tokens == 0
