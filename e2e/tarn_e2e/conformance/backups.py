"""Streams moved with the `nats` command line: Tarn to Tarn, nats-server to Tarn and back. What was there is there.

Usage: python -m tarn_e2e.conformance.backups [--messages N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..server import BINARY, CACHE
from .peers import Server, commands

COMMAND_SECONDS = 120
WAYS = [("tarn", "tarn"), ("nats-server", "tarn"), ("tarn", "nats-server")]
STREAMS = ["ORDERS", "JOBS", "KV_settings"]
CONSUMERS = [("ORDERS", "reader"), ("JOBS", "worker")]
# What the two servers count differently, or say about the moment.
OF_THE_SERVER = {"bytes", "last_ts"}


def nats(server: Server, *arguments: str) -> str:
    command = [str(CACHE / "nats"), "--no-context", "--server", server.url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"nats {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def fill(server: Server, messages: int) -> None:
    """A stream with holes at the beginning, in the middle and at the end, a work queue half done, and a bucket."""
    nats(server, "stream", "add", "ORDERS", "--subjects", "orders.>", "--storage", "file", "--defaults")
    nats(server, "pub", "orders.eu", "--count", str(messages), "order {{Count}} {{Random 10 400}}", "-H", "Origin:test")
    for seq in (messages // 2, messages):
        nats(server, "stream", "rmm", "ORDERS", str(seq), "-f")
    nats(server, "stream", "purge", "ORDERS", "--seq", "30", "-f")
    nats(server, "consumer", "add", "ORDERS", "reader", "--pull", "--ack", "explicit", "--defaults")
    nats(server, "consumer", "next", "ORDERS", "reader", "--count", "5", "--ack")
    nats(server, "consumer", "next", "ORDERS", "reader", "--no-ack")
    nats(server, "stream", "add", "JOBS", "--subjects", "jobs.>", "--storage", "file", "--retention", "work", "--defaults")
    nats(server, "pub", "jobs.new", "--count", "50", "job {{Count}}")
    nats(server, "consumer", "add", "JOBS", "worker", "--pull", "--ack", "explicit", "--defaults")
    nats(server, "consumer", "next", "JOBS", "worker", "--count", "7", "--ack")
    nats(server, "kv", "add", "settings", "--history", "3")
    for value in range(5):
        nats(server, "kv", "put", "settings", "colour", str(value))


def look(server: Server, messages: int) -> dict:
    """What must be the same before and after."""
    seen = {}
    for stream in STREAMS:
        state = json.loads(nats(server, "stream", "info", stream, "--json"))["state"]
        seen[stream] = {name: value for name, value in state.items() if name not in OF_THE_SERVER}
    for stream, consumer in CONSUMERS:
        info = json.loads(nats(server, "consumer", "info", stream, consumer, "--json"))
        delivered = {name: info["delivered"][name] for name in ("consumer_seq", "stream_seq")}
        seen[consumer] = delivered | {name: info[name] for name in ("num_ack_pending", "num_pending")}
    for seq in (30, messages // 2 - 1, messages - 1):
        request = nats(server, "request", "--raw", "$JS.API.STREAM.MSG.GET.ORDERS", json.dumps({"seq": seq}))
        seen[f"message {seq}"] = json.loads(request)["message"]
    return seen


def move(from_command: list[str], to_command: list[str], messages: int) -> list[str]:
    """Moves an account and one stream. Returns what is different."""
    with Server(from_command) as old, Server(to_command) as new, tempfile.TemporaryDirectory() as folder:
        fill(old, messages)
        before = look(old, messages)
        account, stream = Path(folder, "account"), Path(folder, "stream")
        nats(old, "account", "backup", str(account), "--force")
        nats(new, "account", "restore", str(account))
        after = look(new, messages)
        nats(old, "stream", "backup", "ORDERS", str(stream), "--consumers", "--check", "--no-progress")
        nats(new, "stream", "rm", "ORDERS", "-f")
        nats(new, "stream", "restore", str(stream), "--no-progress")
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
    servers = commands(CACHE, os.environ.get("TARN_BIN", str(BINARY)))
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
