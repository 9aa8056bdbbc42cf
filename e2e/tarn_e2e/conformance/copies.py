"""Mirrors and sources of other accounts (`external`), on both servers: what is copied, what is told of it, and what is refused."""

import json
import re
import socket
import time

from .peers import Server

PATIENCE_SECONDS = 60.0
# JetStream's API, flow control and what is sent, from one account to the other.
SHARED = """jetstream {}
accounts {
  FAR { jetstream: enabled, users: [{user: far, password: far}]
        exports: [{service: "$JS.API.CONSUMER.>", response_type: stream}, {service: "$JS.FC.O.>"}, {service: "$JS.FC.Q.>"}, {stream: "to.near.>"}] }
  NEAR { jetstream: enabled, users: [{user: near, password: near}]
         imports: [{service: {account: FAR, subject: "$JS.API.CONSUMER.>"}, to: "far.API.CONSUMER.>"}
                   {service: {account: FAR, subject: "$JS.FC.O.>"}}, {service: {account: FAR, subject: "$JS.FC.Q.>"}}
                   {stream: {account: FAR, subject: "to.near.>"}}] }
}"""
EXTERNAL = {"api": "far.API", "deliver": "to.near"}
# More than the first window of flow control.
MESSAGES = 4000

# Streams of the account that copies, and up to which sequence of the origin.
COPIES = [
    ({"name": "M", "mirror": {"name": "O", "external": EXTERNAL}}, MESSAGES),
    ({"name": "F", "mirror": {"name": "O", "filter_subject": "o.1", "opt_start_seq": 100, "external": EXTERNAL}}, MESSAGES),
    ({"name": "S", "sources": [{"name": "O", "filter_subject": "o.2", "external": EXTERNAL}]}, MESSAGES - 1),
    ({"name": "T", "sources": [{"name": "O", "opt_start_seq": 3990, "external": EXTERNAL, "subject_transforms": [{"src": "o.*", "dest": "t.$1"}]}]}, MESSAGES),
    ({"name": "W", "sources": [{"name": "Q", "external": EXTERNAL}]}, 10),
]
REFUSED = [
    {"api": "far.API", "deliver": "to.*"}, {"api": "far.API", "deliver": "to."}, {"api": "far.*", "deliver": "to"}, {"api": "$JS.API", "deliver": "to"},
    {"api": "far API", "deliver": "to"}, {"api": "far.API", "deliver": "own"}, {"api": "", "deliver": ""}, {"api": "far.API"},
]


class Asker:
    """A user's connection that asks and waits for one answer after the other."""

    def __init__(self, port: int, user: str):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self.file = self.socket.makefile("rb")
        self.send(f'CONNECT {{"verbose":false,"headers":true,"no_responders":true,"user":"{user}","pass":"{user}"}}\r\nSUB in.{user} 1\r\n')
        self.inbox = f"in.{user}"

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def ask(self, subject: str, payload: str = "") -> dict:
        self.send(f"PUB {subject} {self.inbox} {len(payload.encode())}\r\n{payload}\r\n")
        return self.answer()

    def answer(self) -> dict:
        while True:
            line = self.file.readline().decode()
            if line.startswith("PING"):
                self.send("PONG\r\n")
            if not line or line.startswith("-ERR"):
                raise RuntimeError(line or "the server has closed the connection")
            if line.startswith(("MSG", "HMSG")):
                words = line.split()
                body = self.file.read(int(words[-1]) + 2)
                body = body[int(words[-2]):] if line.startswith("HMSG") else body
                return json.loads(body or b"{}")

    def api(self, request: str, payload: dict | None = None) -> dict:
        return self.ask(f"$JS.API.{request}", "" if payload is None else json.dumps(payload))

    def close(self) -> None:
        self.socket.close()


def masked(value) -> str:
    text = json.dumps(value, sort_keys=True)
    text = re.sub(r'("(?:active|lag)": )\d+', r"\1<number>", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)


def position(info: dict) -> int:
    """How far a copy is in its origin."""
    return info["state"]["last_seq"] if "mirror" in info else info["sources"][0].get("seq", 0)


def until(what, is_it) -> dict:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_it(found := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def play(command: list[str]) -> list[str]:
    """What is copied and what is told of it, a line for each."""
    lines = []
    with Server(command, SHARED) as server:
        far, near = Asker(server.port, "far"), Asker(server.port, "near")
        far.api("STREAM.CREATE.O", {"name": "O", "subjects": ["o.*"]})
        far.api("STREAM.CREATE.Q", {"name": "Q", "subjects": ["q"], "retention": "workqueue"})
        for number in range(1, MESSAGES + 1):
            far.ask(f"o.{number % 3}", "x" * 1000)
        for number in range(10):
            far.ask("q", str(number))
        for config, last in COPIES:
            name = config["name"]
            created = near.api(f"STREAM.CREATE.{name}", config)
            lines.append(f"{name} created: {masked(created.get('error') or created['config'].get('mirror') or created['config'].get('sources'))}")
            info = until(lambda: near.api(f"STREAM.INFO.{name}"), lambda info: position(info) >= last)
            state = {field: info["state"].get(field) for field in ("messages", "first_seq", "last_seq", "num_subjects")}
            lines.append(f"{name} state: {masked(state)}")
            lines.append(f"{name} origin: {masked(info.get('mirror') or info.get('sources'))}")
            message = near.api(f"STREAM.MSG.GET.{name}", {"seq": info["state"]["last_seq"]}).get("message", {})
            lines.append(f"{name} last: {message.get('subject')} {len(message.get('data', ''))} {'hdrs' in message}")
        left = until(lambda: far.api("STREAM.INFO.Q"), lambda info: info["state"]["messages"] == 0)
        lines.append(f"Q is left with {left['state']['messages']}")
        lines.append(f"consumers told of: {far.api('CONSUMER.NAMES.O')['total']} of O")
        near.api("STREAM.CREATE.OWN", {"name": "OWN", "subjects": ["own.>"]})
        for external in REFUSED:
            answer = near.api("STREAM.CREATE.X", {"name": "X", "sources": [{"name": "OWN"}, {"name": "O", "external": external}]})
            lines.append(f"{json.dumps(external)}: {json.dumps(answer.get('error'))}")
            near.api("STREAM.DELETE.X")
        far.close()
        near.close()
    return lines
