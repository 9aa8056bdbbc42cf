"""Streams moved with the `nats` command line: Tarn to Tarn, nats-server to Tarn and back. What was there is there.

Usage: python -m tarn_e2e.conformance.backups [--messages N]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from .nats_cli import Nats
from .peers import Server, commands

COMMAND_SECONDS = 120
WAYS = [("tarn", "tarn"), ("nats-server", "tarn"), ("tarn", "nats-server")]
STREAMS = ["ORDERS", "JOBS", "KV_settings"]
CONSUMERS = [("ORDERS", "reader"), ("JOBS", "worker")]
# What the two servers count differently, or say about the moment.
OF_THE_SERVER = {"bytes", "last_ts"}


class Client:
    """The command line at one server."""

    def __init__(self, nats: Nats, server: Server):
        self.nats, self.server = nats, server

    def __call__(self, *arguments: str) -> str:
        status, text = self.nats.run("--server", self.server.url, *arguments, seconds=COMMAND_SECONDS)
        if status != 0:
            raise SystemExit(f"nats {' '.join(arguments)}: exit {status}\n{text}")
        return text


def fill(nats: Client, messages: int) -> None:
    """A stream with holes at the beginning, in the middle and at the end, a work queue half done, and a bucket."""
    nats("stream", "add", "ORDERS", "--subjects", "orders.>", "--storage", "file", "--defaults")
    nats("pub", "orders.eu", "--count", str(messages), "order {{Count}} {{Random 10 400}}", "-H", "Origin:test")
    for seq in (messages // 2, messages):
        nats("stream", "rmm", "ORDERS", str(seq), "-f")
    nats("stream", "purge", "ORDERS", "--seq", "30", "-f")
    nats("consumer", "add", "ORDERS", "reader", "--pull", "--ack", "explicit", "--defaults")
    nats("consumer", "next", "ORDERS", "reader", "--count", "5", "--ack")
    nats("consumer", "next", "ORDERS", "reader", "--no-ack")
    nats("stream", "add", "JOBS", "--subjects", "jobs.>", "--storage", "file", "--retention", "work", "--defaults")
    nats("pub", "jobs.new", "--count", "50", "job {{Count}}")
    nats("consumer", "add", "JOBS", "worker", "--pull", "--ack", "explicit", "--defaults")
    nats("consumer", "next", "JOBS", "worker", "--count", "7", "--ack")
    nats("kv", "add", "settings", "--history", "3")
    for value in range(5):
        nats("kv", "put", "settings", "colour", str(value))


def look(nats: Client, messages: int) -> dict:
    """What must be the same before and after."""
    seen = {}
    for stream in STREAMS:
        state = json.loads(nats("stream", "info", stream, "--json"))["state"]
        seen[stream] = {name: value for name, value in state.items() if name not in OF_THE_SERVER}
    for stream, consumer in CONSUMERS:
        info = json.loads(nats("consumer", "info", stream, consumer, "--json"))
        delivered = {name: info["delivered"][name] for name in ("consumer_seq", "stream_seq")}
        seen[consumer] = delivered | {name: info[name] for name in ("num_ack_pending", "num_pending")}
    for seq in (30, messages // 2 - 1, messages - 1):
        request = nats("request", "--raw", "$JS.API.STREAM.MSG.GET.ORDERS", json.dumps({"seq": seq}))
        seen[f"message {seq}"] = json.loads(request)["message"]
    return seen


def move(from_command: list[str], to_command: list[str], messages: int) -> list[str]:
    """Moves an account and one stream. Returns what is different."""
    with Server(from_command) as source, Server(to_command) as target, tempfile.TemporaryDirectory() as folder:
        nats = Nats(Path(folder))
        old, new = Client(nats, source), Client(nats, target)
        fill(old, messages)
        before = look(old, messages)
        account, stream = Path(folder, "account"), Path(folder, "stream")
        old("account", "backup", str(account), "--force")
        new("account", "restore", str(account))
        after = look(new, messages)
        old("stream", "backup", "ORDERS", str(stream), "--consumers", "--check", "--no-progress")
        new("stream", "rm", "ORDERS", "-f")
        new("stream", "restore", str(stream), "--no-progress")
        again = look(new, messages)
        seen = [("account restore", after), ("stream restore", again)]
        return [
            f"{what}: {name}: {before[name]} became {found[name]}"
            for what, found in seen
            for name in before
            if before[name] != found[name]
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=3000)
    arguments = parser.parse_args()
    servers = commands()
    is_good = True
    for old, new in WAYS:
        differences = move(servers[old], servers[new], arguments.messages)
        print(f"{old} -> {new}: {'the same' if not differences else 'DIFFERENT'}")
        for difference in differences:
            print(f"  {difference}")
        is_good &= not differences
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
