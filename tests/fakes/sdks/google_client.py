"""One call with Google's SDK: `google_client.py CALL PROMPT`; prints the usage that it read."""

import asyncio
import json
import sys

from google import genai

order = {"model": "gemini-3-flash", "contents": sys.argv[2]}
client = genai.Client(api_key="test")


def generate():
    return client.models.generate_content(**order)


def generate_stream():
    return list(client.models.generate_content_stream(**order))[-1]


def asynchronous():
    async def ask():
        return [answer async for answer in await client.aio.models.generate_content_stream(**order)][-1]

    return asyncio.run(ask())


usage = globals()[sys.argv[1]]().usage_metadata
print(json.dumps([usage.model_dump(by_alias=True, exclude_none=True, mode="json")]))
