"""
A small Agent Client Protocol agent: raw JSON-RPC on standard input and output, the standard library only.

Its prompts are commands: `echo …`, `slow` (until cancelled), `deaf` (slow, and cancelling does not end it), `error
CODE`, `ask` (for permission), `die`, `noise`, `model`. Arguments: `--auth` wants authentication first, `--oauth`
offers only a sign-in by hand, `--options` tells models as configuration options, `--plain` tells none, `--stale`
speaks version 99, `--mute` says nothing.
"""

import json
import sys
import threading

METHODS = {"--oauth": [{"id": "oauth-personal", "name": "Log in"}]}
CURRENT: dict = {}
LOCK = threading.Lock()
CANCELLED: dict = {}
ANSWERS: dict = {}
SEEN: dict = {}


def send(message):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def update(session, kind, **members):
    send({"method": "session/update", "params": {"sessionId": session, "update": {"sessionUpdate": kind, **members}}})


def say(session, text, kind="agent_message_chunk"):
    update(session, kind, content={"type": "text", "text": text})


def new_session(options):
    session = f"s{len(CANCELLED) + 1}"
    CANCELLED[session] = threading.Event()
    CURRENT[session] = "small"
    SEEN[session] = 0
    models = [("small", "Small"), ("large", "Large")]
    if "--plain" in options:
        return {"sessionId": session}
    if "--options" in options:
        values = [{"value": identity, "name": name} for identity, name in models]
        group = [{"group": "g", "name": "G", "options": values}]
        option = {"id": "which", "category": "model", "type": "select", "currentValue": "small", "options": group}
        return {"sessionId": session, "configOptions": [option]}
    listed = [{"modelId": identity, "name": name} for identity, name in models]
    return {"sessionId": session, "models": {"availableModels": listed, "currentModelId": "small"}}


def prompt(identity, session, text):
    SEEN[session] += 1
    CANCELLED[session].clear()
    word, _, rest = text.rpartition("\n\n")[2].partition(" ")
    stop = "end_turn"
    if word == "echo":
        say(session, "thinking about it", "agent_thought_chunk")
        update(session, "something_of_tomorrow", whatever=1)
        update(session, "tool_call", toolCallId="1", title="reading a file", status="pending")
        for letter in f"{session}#{SEEN[session]}:{text if rest == 'all' else rest}":
            say(session, letter)
    elif word == "model":
        say(session, CURRENT[session])
    elif word == "slow":
        say(session, "started")
        CANCELLED[session].wait(60)
        stop = "cancelled"
    elif word == "deaf":
        say(session, "started")
        threading.Event().wait(60)
    elif word == "error":
        send({"id": identity, "error": {"code": int(rest), "message": "it failed", "data": {"details": "because"}}})
        return
    elif word == "ask":
        done = ANSWERS["p"] = threading.Event()
        options = [
            {"optionId": "yes", "name": "Yes", "kind": "allow_once"},
            {"optionId": "no", "name": "No", "kind": "reject_once"},
        ]
        params = {"sessionId": session, "toolCall": {"toolCallId": "1"}, "options": options}
        send({"id": "p", "method": "session/request_permission", "params": params})
        done.wait(10)
        send({"id": "f", "method": "fs/read_text_file", "params": {"sessionId": session, "path": "/etc/passwd"}})
        say(session, json.dumps(ANSWERS["p-result"]))
    elif word == "die":
        sys.stderr.write("a secret prompt in the log\n")
        sys.stderr.flush()
        import os

        os._exit(9)
    elif word == "noise":
        with LOCK:
            sys.stdout.write("this is no JSON\n[1]\n" + "x" * int(rest) + "\n")
        say(session, "still here")
    send({"id": identity, "result": {"stopReason": stop}})


def handle(message, options):
    method, identity, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method is None:
        if identity == "p":
            ANSWERS["p-result"] = message.get("result")
            ANSWERS["p"].set()
    elif method == "initialize":
        offered = METHODS.get("--oauth") if "--oauth" in options else [{"id": "my-api-key", "name": "API key"}]
        version = 99 if "--stale" in options else 1
        info = {"name": "fake-agent", "version": "1"}
        send({"id": identity, "result": {"protocolVersion": version, "authMethods": offered, "agentInfo": info}})
    elif method == "authenticate":
        options.discard("--auth")
        send({"id": identity, "result": {}})
    elif method == "session/new" and options & {"--auth", "--oauth"}:
        send({"id": identity, "error": {"code": -32000, "message": "Authentication required"}})
    elif method == "session/new":
        send({"id": identity, "result": new_session(options)})
    elif method == "session/set_model":
        CURRENT[params["sessionId"]] = params["modelId"]
        send({"id": identity, "result": {}})
    elif method == "session/set_config_option":
        assert params["configId"] == "which"
        CURRENT[params["sessionId"]] = params["value"]
        send({"id": identity, "result": {"configOptions": []}})
    elif method == "session/prompt":
        arguments = (identity, params["sessionId"], params["prompt"][0]["text"])
        threading.Thread(target=prompt, args=arguments, daemon=True).start()
    elif method == "session/cancel":
        CANCELLED[params["sessionId"]].set()


def main():
    options = set(sys.argv[1:])
    for line in sys.stdin:
        if "--mute" not in options:
            handle(json.loads(line), options)


main()
