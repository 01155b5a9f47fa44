"""One call with boto3 to Bedrock: `bedrock_client.py CALL PROMPT`; prints the usage that it read."""

import json
import sys

import boto3

NOVA, CLAUDE = "amazon.nova-pro-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-pro-v1:0"
client = boto3.client(
    "bedrock-runtime", region_name="us-east-1", aws_access_key_id="AKIATEST", aws_secret_access_key="not-a-secret"
)
turn = [{"role": "user", "content": [{"text": sys.argv[2]}]}]
body = json.dumps(
    {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": sys.argv[2]}],
    }
)


def converse():
    return client.converse(modelId=NOVA, messages=turn)["usage"]


def converse_by_profile():
    return client.converse(modelId=PROFILE, messages=turn)["usage"]


def converse_stream():
    events = list(client.converse_stream(modelId=NOVA, messages=turn)["stream"])
    return events[-1]["metadata"]["usage"]


def invoke():
    return json.loads(client.invoke_model(modelId=CLAUDE, body=body)["body"].read())["usage"]


def invoke_stream():
    events = client.invoke_model_with_response_stream(modelId=CLAUDE, body=body)["body"]
    said = [json.loads(event["chunk"]["bytes"]) for event in events]
    return next(each["usage"] for each in said if each["type"] == "message_delta")


print(json.dumps([globals()[sys.argv[1]]()]))
