"""What accounts share: the same configurations and the same bytes for both servers, and what every client hears.

Prints what differs and exits with 1 if anything does. Usage: accounts [--show]
"""

import argparse
import difflib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from . import copies
from .peers import Server, commands

# How long nothing more has to come until a step counts as answered.
QUIET_SECONDS = 0.25
USER = "users: [{{user: {0}, password: {0}}}]"


def users(name: str) -> str:
    return USER.format(name)


STREAMS = f"""accounts {{
  A {{ {users("a")}, exports: [{{stream: "public.>"}}, {{stream: "private.*.x", accounts: [B]}}, {{stream: "lit"}}] }}
  B {{ {users("b")}, imports: [{{stream: {{account: A, subject: "public.>"}}, prefix: from.a}}
      {{stream: {{account: A, subject: "private.*.x"}}, to: "mine.$1"}}, {{stream: {{account: A, subject: lit}}, to: "lit.here"}}]
      exports: [{{stream: "from.a.public.>"}}] }}
  C {{ {users("c")}, imports: [{{stream: {{account: B, subject: "from.a.public.>"}}}}] }} }}"""

SERVICES = f"""accounts {{
  A {{ {users("a")}, exports: [{{service: "echo.*"}}, {{service: "many", response_type: stream}}, {{service: "chunk", response_type: chunked}}
      {{service: "for.*.>", account_token_position: 2}}, {{service: "two"}}] }}
  B {{ {users("b")}, imports: [{{service: {{account: A, subject: "echo.*"}}, to: "say.*"}}, {{service: {{account: A, subject: many}}}}
      {{service: {{account: A, subject: chunk}}}}, {{service: {{account: A, subject: "for.B.x"}}, to: forb}}
      {{service: {{account: A, subject: two}}}}], exports: [{{service: "two"}}] }}
  C {{ {users("c")}, imports: [{{service: {{account: B, subject: two}}, to: "link"}}] }} }}"""

MAPPINGS = f"""accounts {{
  A {{ users: [{{user: a, password: a, permissions: {{publish: {{allow: ["to.>", "plain"]}}}}}}, {{user: r, password: r}}]
      mappings {{ "from.*.*": "to.{{{{wildcard(2)}}}}.{{{{wildcard(1)}}}}", "gone": [{{destination: gone, weight: 0}}], "hidden": elsewhere }}
      exports: [{{service: "to.>"}}] }}
  B {{ {users("b")}, mappings {{ "x": "ask.y" }}, imports: [{{service: {{account: A, subject: "to.>"}}, to: "ask.>"}}] }} }}"""

LIMITS = """max_subscription_tokens: 3
accounts { A { users: [{user: a, password: a}], limits: {max_connections: 2, max_subscriptions: 2, max_payload: 10} } }"""

# Configuration, and steps: who says what.
SCENARIOS = {
    "streams": (STREAMS, ["b SUB > 1", "c SUB > 1", "b SUB mine.* q 2", "a PUB private.k.x", "a PUB public.one", "a PUB lit",
                          "a PUB secret", "b PUB public.x", "a PUB private.k.y", "b UNSUB 1 7", "a PUB public.2", "a PUB public.3"]),
    "services": (SERVICES, ["b SUB in.* 1", "c SUB in.* 1", "b PUB say.x in.0", "a SUB echo.* 1", "a SUB many 2", "a SUB chunk 3",
                            "a SUB for.> 4", "a SUB two 5", "b PUB say.x in.1", "a PUB @", "a PUB @", "b PUB many in.2", "a PUB @",
                            "a PUB @", "b PUB forb in.3", "a PUB @", "b PUB for.B.x in.4", "c PUB link in.5", "a PUB @", "b PUB two in.6",
                            "b PUB say.x", "c PUB two in.7", "b PUB in.8 _R_.a.b"]),
    "mappings": (MAPPINGS, ["r SUB > 1", "a PUB from.x.y", "a PUB gone", "a PUB hidden", "a PUB plain", "a PUB from.x", "r PUB hidden",
                            "b SUB in 2", "b PUB x in", "b PUB ask.z"]),
    "limits": (LIMITS, ["a SUB a.b.c.d 1", "a SUB a.b.c 2", "a SUB b 3", "a SUB c 4", "b/a SUB x 1", "c/a SUB x 1", "a PUBBIG b"]),
}

SHOWN = f"""accounts {{
  A {{ {users("a")}, exports: [{{stream: "s.>", accounts: [B]}}, {{service: v, accounts: [B], response_type: chunked}}
      {{service: l, latency: {{subject: lat, sampling: 50}}}}, {{service: "t.*", account_token_position: 2, allow_trace: true}}]
      mappings {{ "m.*": [{{destination: "n.$1", weight: 40}}, {{destination: "o.{{{{wildcard(1)}}}}", weight: 30, cluster: X}}], q: r }} }}
  B {{ {users("b")}, imports: [{{stream: {{account: A, subject: "s.>"}}, prefix: p}}, {{service: {{account: A, subject: v}}, to: w, share: true}}
      {{service: {{account: A, subject: "t.B"}}}}] }} }}"""

# Configuration, and the accounts that monitoring is asked about.
TOLD = {"streams": (STREAMS, "A B C"), "services": (SERVICES, "A B C"), "mappings": (MAPPINGS, "A B"), "all": (SHOWN, "A B $SYS")}

# Configurations that are refused, and why.
REFUSED = {
    "service circle": """accounts { A { exports: [{service: x}], imports: [{service: {account: B, subject: x}}] }
        B { exports: [{service: x}], imports: [{service: {account: A, subject: x}}] } }""",
    "stream circle": """accounts { A { exports: [{stream: x}], imports: [{stream: {account: B, subject: x}}] }
        B { exports: [{stream: x}], imports: [{stream: {account: A, subject: x}}] } }""",
    "private stream": "accounts { A { exports: [{stream: x, accounts: [C]}] }, B { imports: [{stream: {account: A, subject: x}}] }, C {} }",
    "private service": "accounts { A { exports: [{service: x, accounts: [C]}] }, B { imports: [{service: {account: A, subject: x}}] }, C {} }",
    "no such export": "accounts { A { exports: [{stream: x}] }, B { imports: [{stream: {account: A, subject: y}}] } }",
    "token elsewhere": 'accounts { A { exports: [{service: "q.*", account_token_position: 1}] } }',
    "token of another": """accounts { A { exports: [{service: "q.*", account_token_position: 2}] }
        B { imports: [{service: {account: A, subject: "q.C"}}] } }""",
    "wildcards lost": 'accounts { A { exports: [{stream: "s.*"}] }, B { imports: [{stream: {account: A, subject: "s.*"}, to: t}] } }',
    "prefix with wildcards": 'accounts { A { exports: [{stream: "s"}] }, B { imports: [{stream: {account: A, subject: s}, prefix: "p.*"}] } }',
    "the same stream twice": """accounts { A { exports: [{stream: s}] }
        B { imports: [{stream: {account: A, subject: s}}, {stream: {account: A, subject: s}, to: t}] } }""",
    "the same service twice": """accounts { A { exports: [{service: s}, {service: r}] }
        B { imports: [{service: {account: A, subject: s}, to: x}, {service: {account: A, subject: r}, to: x}] } }""",
    "a mapping out of range": 'accounts { A { mappings { "a.*": "b.$2" } } }',
    "a mapping too heavy": "accounts { A { mappings { a: [{destination: b, weight: 60}, {destination: c, weight: 60}] } } }",
}


class Client:
    """A user's connection that collects what it hears."""

    def __init__(self, port: int, user: str):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.heard = b""
        self.reply = ""
        self.say(f'CONNECT {{"verbose":false,"headers":true,"no_responders":true,"user":"{user}","pass":"{user}"}}')
        self.say("PING")

    def say(self, line: str) -> None:
        try:
            self.socket.sendall(line.encode() + b"\r\n")
        except OSError:
            self.heard += b"(closed)\r\n"

    def listen(self) -> bool:
        """Takes what is there. Returns whether anything was."""
        self.socket.settimeout(0.01)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            return False
        self.heard += data
        return True

    def take(self) -> list[str]:
        text, self.heard = self.heard.decode(errors="replace"), b""
        found = re.findall(r"_R_\.\S+", text)
        self.reply = found[-1] if found else self.reply
        text = re.sub(r"_R_\.\S+ ", "_R_.? ", text)
        text = re.sub(r'"rtt":\d+', '"rtt":?', text).replace(',"rtt":?', "")
        # Sizes of headers differ with what was left out.
        text = re.sub(r"^(HMSG .*?) \d+ \d+\r$", r"\1", text, flags=re.M)
        return [line for line in text.splitlines() if line and line != "PING" and not line.startswith("INFO ")]


def play(command: list[str], config: str, steps: list[str]) -> list[str]:
    """What every client hears after each step."""
    transcript: list[str] = []
    with Server(command, config) as server:
        clients: dict[str, Client] = {}
        for step in steps:
            name, line = step.split(" ", 1)
            name, _, user = name.partition("/")
            if name not in clients:
                clients[name] = Client(server.port, user or name)
                settle(clients)
                clients[name].take()
            client = clients[name]
            words = line.split(" ")
            if words[0] == "PUB":
                words[1] = client.reply if words[1] == "@" else words[1]
                line = " ".join(words) + " 2\r\nhi"
            elif words[0] == "PUBBIG":
                line = f"PUB {words[1]} 11\r\n01234567890"
            client.say(line)
            settle(clients)
            transcript.append(f"> {step}")
            for other, held in sorted(clients.items()):
                transcript += [f"{other}: {text}" for text in held.take()]
        for client in clients.values():
            client.socket.close()
    return transcript


def settle(clients: dict[str, Client]) -> None:
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        if any([client.listen() for client in clients.values()]):
            until = time.monotonic() + QUIET_SECONDS


def refusal(command: list[str], config: str) -> str:
    """Why a configuration is refused, without where it stands."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nats.conf"
        path.write_text(config)
        ran = subprocess.run([*command, "-t", "-c", str(path)], capture_output=True, text=True, timeout=30, check=False)
    lines = (ran.stdout + ran.stderr).replace(str(path), "").splitlines()
    texts = [re.sub(r"^.*?:\d+:\d+: ", "", line) for line in lines if line.strip()]
    return f"{ran.returncode} " + " | ".join(sorted(set(texts)))


def told(command: list[str], config: str, accounts: str) -> list[str]:
    """What `/accountz` says of each account, a line for each field and for each item of a list; lists have no order."""
    lines = []
    with Server(command, config, http=True) as server:
        for account in accounts.split():
            detail = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/accountz?acc={account}", timeout=5).read())["account_detail"]
            for name, value in sorted(detail.items()):
                if name in ("exports", "imports"):
                    lines += sorted(f"{account} {name} {json.dumps(item, sort_keys=True)}" for item in value)
                elif name not in ("update_time", "subscriptions", "sublist_stats"):
                    lines.append(f"{account} {name} {json.dumps(value, sort_keys=True)}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print everything that is heard")
    show = parser.parse_args().show
    peers = commands()
    failed = 0
    for name, (config, steps) in SCENARIOS.items():
        heard = {peer: play(command, config, steps) for peer, command in peers.items()}
        failed += compare(name, heard, show)
    for name, (config, accounts) in TOLD.items():
        heard = {peer: told(command, config, accounts) for peer, command in peers.items()}
        failed += compare(f"what is told of {name}", heard, show)
    for name, config in REFUSED.items():
        heard = {peer: [refusal(command, config)] for peer, command in peers.items()}
        failed += compare(name, heard, show)
    failed += compare("copies of other accounts' streams", {peer: copies.play(command) for peer, command in peers.items()}, show)
    total = len(SCENARIOS) + len(TOLD) + len(REFUSED) + 1
    print(f"accounts: {total - failed} of {total} the same")
    return 1 if failed else 0


def compare(name: str, heard: dict[str, list[str]], show: bool) -> int:
    real, own = heard["nats-server"], heard["tarn"]
    if show:
        print(f"== {name}", *real, sep="\n")
    if real == own:
        return 0
    print(f"-- {name} differs")
    for line in difflib.unified_diff(real, own, "nats-server", "tarn", lineterm="", n=1):
        print(f"   {line}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
