"""One call with OpenAI's SDK: `openai_client.py CALL PROMPT`; prints the usage that it read."""

import asyncio
import json
import sys

from openai import AsyncOpenAI, OpenAI
from openai.types.responses import ResponseCompletedEvent

MODEL, EMBEDDING_MODEL = "gpt-5.2", "text-embedding-3-small"
prompt = sys.argv[2]
client = OpenAI(api_key="sk-test", max_retries=0)


def chat():
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": prompt}]).usage


def chat_stream(**options):
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True, **options
    )
    return [chunk.usage for chunk in chunks][-1]


def chat_stream_with_usage():
    return chat_stream(stream_options={"include_usage": True})


def responses():
    return client.responses.create(model=MODEL, input=prompt).usage


def responses_stream():
    with client.responses.stream(model=MODEL, input=prompt) as stream:
        return stream.get_final_response().usage


def responses_socket(**options):
    """Two responses on one connection, the second one of another model."""
    found = []
    with client.responses.connect(websocket_connection_options=options) as connection:
        for model in (MODEL, "gpt-5.2-mini"):
            connection.response.create(model=model, input=[{"type": "message", "role": "user", "content": prompt}])
            for event in connection:
                if isinstance(event, ResponseCompletedEvent):
                    found.append(event.response.usage)
                    break
    return found


def responses_socket_compressed():
    return responses_socket(compression="deflate")


def embeddings():
    return client.embeddings.create(model=EMBEDDING_MODEL, input=[prompt, "and another"]).usage


def asynchronous():
    async def ask():
        async with AsyncOpenAI(api_key="sk-test") as client:
            async with client.responses.stream(model=MODEL, input=prompt) as stream:
                return (await stream.get_final_response()).usage

    return asyncio.run(ask())


found = globals()[sys.argv[1]]()
print(json.dumps([each and each.to_dict() for each in (found if isinstance(found, list) else [found])]))
