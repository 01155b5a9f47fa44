"""One call with Mistral's SDK: `mistral_client.py CALL PROMPT`; prints the usage that it read."""

import asyncio
import json
import sys

from mistralai.client import Mistral

order = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": sys.argv[2]}]}


def chat():
    with Mistral(api_key="test") as client:
        return client.chat.complete(**order).usage


def chat_stream():
    with Mistral(api_key="test") as client, client.chat.stream(**order) as stream:
        return [event.data.usage for event in stream][-1]


def embeddings():
    with Mistral(api_key="test") as client:
        return client.embeddings.create(model="mistral-embed", inputs=[sys.argv[2]]).usage


def asynchronous():
    async def ask():
        async with Mistral(api_key="test") as client:
            return [event.data.usage async for event in await client.chat.stream_async(**order)][-1]

    return asyncio.run(ask())


print(json.dumps([globals()[sys.argv[1]]().model_dump(exclude_none=True, mode="json")]))
