"""The monitoring endpoints of both servers: status, and which fields of which kind there are."""

import json
import urllib.error
import urllib.request

from .peers import TWO_ACCOUNTS, Server, Wire

PATHS = [
    "/", "/varz", "/connz", "/connz?subs=1", "/connz?subs=detail&auth=1", "/connz?state=closed", "/connz?state=any&sort=bytes_to", "/connz?cid=99",
    "/connz?sort=nope", "/connz?limit=x", "/connz?offset=-1", "/routez", "/routez?subs=1", "/gatewayz", "/leafz", "/subsz", "/subsz?subs=1",
    "/subsz?test=s.1", "/subscriptionsz", "/accountz", "/accountz?acc=APP", "/accountz?acc=NOPE", "/accstatz", "/accstatz?unused=1", "/jsz",
    "/jsz?accounts=true", "/jsz?streams=true", "/jsz?streams=true&raft=1", "/jsz?acc=APP&consumers=true&config=true", "/jsz?acc=NOPE",
    "/jsz?consumers=x", "/jsz?limit=x", "/healthz", "/healthz?js-enabled-only=true", "/healthz?js-server-only=true", "/healthz?account=APP",
    "/healthz?account=NOPE", "/healthz?account=APP&stream=S", "/healthz?account=APP&stream=T", "/healthz?account=APP&stream=S&consumer=C",
    "/healthz?account=APP&stream=S&consumer=D", "/healthz?stream=S", "/healthz?account=APP&consumer=C", "/healthz?js-enabled-only=x", "/stacksz",
    "/expvarz", "/ipqueuesz", "/raftz", "/debug/vars", "/nope",
]

# Texts of pages differ; the kinds of values of the Go runtime's own pages too.
TEXTS = {"/", "/stacksz", "/debug/vars"}


def kinds(value, path=""):
    """A tree with the kinds of its values instead of the values; of lists, what the items have together."""
    if isinstance(value, dict):
        return {key: kinds(inner) for key, inner in value.items()}
    if isinstance(value, list):
        found: dict = {}
        for item in value:
            inner = kinds(item)
            if not isinstance(inner, dict):
                return [inner]
            found |= inner
        return [found] if found else []
    return {bool: "boolean", int: "number", float: "number", str: "text", type(None): "null"}[type(value)]


def ask(port: int, path: str):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
        shape = kinds(found)
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            shape["error"] = found["error"]
    except ValueError:
        shape = "a page" if path in TEXTS else text.strip()
    return {"status": status, "body": shape}


def answers(command) -> dict[str, dict]:
    with Server(command, config=TWO_ACCOUNTS, http=True) as server:
        wire = Wire(server.port, {"name": "n", "lang": "python", "version": "1"})
        for subject, request in (
            ("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"]}),
            ("s.1", "first"),
            ("s.2", "second"),
            ("$JS.API.CONSUMER.CREATE.S.C", {"stream_name": "S", "config": {"durable_name": "C", "ack_policy": "explicit"}}),
            ("$JS.API.CONSUMER.MSG.NEXT.S.C", ""),
        ):
            payload = request if isinstance(request, str) else json.dumps(request)
            wire.ask(subject, payload.encode(), None, 2.0)
        Wire(server.port).close()
        return {path: ask(server.http_port, path) for path in PATHS}
