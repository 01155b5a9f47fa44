"""One call with Anthropic's SDK: `anthropic_client.py CALL PROMPT`; prints the usage that it read."""

import asyncio
import json
import sys

from anthropic import Anthropic, AsyncAnthropic

order = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": sys.argv[2]}],
}


def messages():
    return Anthropic(api_key="sk-ant-test", max_retries=0).messages.create(**order)


def messages_stream():
    with Anthropic(api_key="sk-ant-test", max_retries=0).messages.stream(**order) as stream:
        return stream.get_final_message()


def asynchronous():
    async def ask():
        async with AsyncAnthropic(api_key="sk-ant-test") as client, client.messages.stream(**order) as stream:
            return await stream.get_final_message()

    return asyncio.run(ask())


print(json.dumps([globals()[sys.argv[1]]().usage.to_dict()]))
