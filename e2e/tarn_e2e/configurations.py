"""The `nats.conf` of a deployment with tenants: it loads, and everything that its services do with it behaves.

Uses the Python client and the configuration file alone: no flags. Usage: configurations [--server "nats-server"], where the
default is `tarn broker`; nats-server itself passes too.
"""

import argparse
import asyncio
import datetime
import json
import re
import shlex
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, KeyValueConfig, StorageType, StreamConfig
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

from .server import BINARY, free_port

READY_SECONDS = 15.0
WEEK_SECONDS = 7 * 24 * 3600.0
TOPICS = ("auth", "compute", "gateway", "sfs", "notify")
KEY_SECONDS = 2.0

PLAIN = """
port: {port}, host: 127.0.0.1, http_port: {http}
jetstream {{ store_dir: "{folder}/store", max_mem: 512M, max_file: 4G }}
"""

TENANTS = PLAIN + """
accounts {{
  $SYS: {{ users: [ {{ user: sys, password: sys }} ] }}
  NOETL: {{ jetstream: enabled, users: [ {{ user: noetl, password: noetl }} ] }}
  OTHER: {{ users: [ {{ user: other, password: other }} ] }}
}}
system_account: "$SYS"
"""


class Server:
    """A server of a configuration file, on free ports."""

    def __init__(self, command: list[str], folder: str, text: str):
        self.command, self.folder = command, Path(folder)
        self.port, self.http = free_port(), free_port()
        self.file = self.folder / "nats.conf"
        self.file.write_text(text.format(port=self.port, http=self.http, folder=folder))
        self.process = None

    def start(self) -> None:
        log = self.folder / "log"
        with log.open("wb") as out:
            self.process = subprocess.Popen([*self.command, "-c", str(self.file)], stdout=out, stderr=out)
        deadline = time.monotonic() + READY_SECONDS
        while "Server is ready" not in log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=10) as answer:
            return json.load(answer)

    async def connect(self, user: str = "", password: str | None = None):
        named = {"user": user, "password": user if password is None else password} if user else {}
        return await nats.connect(
            f"nats://127.0.0.1:{self.port}", allow_reconnect=False, connect_timeout=5, error_cb=unheard, **named
        )


async def unheard(_: Exception) -> None:
    """Errors are looked at where they are raised."""


def same(what: str, got, wanted) -> None:
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


async def fails(what: str, work, kind, text: str = "") -> None:
    try:
        await work
    except kind as err:
        assert re.search(text, str(err), re.I), f"{what}: {err!r} does not say {text!r}"
        return
    raise AssertionError(f"{what} was let through")


async def take(subscription, count: int, seconds: float = 5.0) -> list:
    """Up to `count` messages; fewer if no more come in time."""
    found: list = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        try:
            found += await subscription.fetch(count - len(found), timeout=max(deadline - time.monotonic(), 0.1))
        except (NatsTimeout, asyncio.TimeoutError):
            break
    return found


async def plain(server: Server) -> None:
    """Limits and monitoring of a server without accounts."""
    varz = server.get("/varz")
    config = varz["jetstream"]["config"]
    same("max_mem and max_file", (config["max_memory"], config["max_storage"]), (512_000_000, 4_000_000_000))
    assert Path(config["store_dir"]).is_relative_to(server.folder / "store"), config
    same("healthz", server.get("/healthz")["status"], "ok")
    client = await server.connect()
    stream = client.jetstream()
    await stream.add_stream(StreamConfig(name="S", subjects=["s.>"]))
    same("the first sequence", (await stream.publish("s.a", b"x")).seq, 1)
    same("jsz", [server.get("/jsz")[name] for name in ("streams", "messages")], [1, 1])
    await client.close()


async def entrance(server: Server) -> None:
    """Who may come in, and which of them may use JetStream."""
    await fails("nobody", server.connect(), Exception, "authorization")
    await fails("a wrong password", server.connect("noetl", "wrong"), Exception, "authorization")
    noetl, system, other = [await server.connect(user) for user in ("noetl", "sys", "other")]
    same("streams of NOETL", (await noetl.jetstream().account_info()).streams, 0)
    for client in (system, other):
        answer = json.loads((await client.request("$JS.API.INFO", b"", timeout=5)).data)
        same("JetStream elsewhere", answer["error"]["err_code"], 10039)
    answer = json.loads((await system.request("$SYS.REQ.SERVER.PING.VARZ", b"", timeout=5)).data)
    same("the port that $SYS is told", answer["data"]["port"], server.port)
    await fails("NOETL asking the server", noetl.request("$SYS.REQ.SERVER.PING.VARZ", b"", timeout=1), NatsError)
    heard = await other.subscribe("auth.>")
    await other.flush()
    await noetl.publish("auth.login", b"x")
    await noetl.flush()
    await fails("OTHER hearing NOETL", heard.next_msg(timeout=0.3), NatsTimeout)
    for client in (noetl, system, other):
        await client.close()


async def sessions(stream) -> None:
    """Keys that expire, each in its own time."""
    bucket = await stream.create_key_value(config=KeyValueConfig(bucket="sessions", ttl=KEY_SECONDS))
    began = time.monotonic()
    await bucket.put("one", b"1")
    same("a fresh key", (await bucket.get("one")).value, b"1")
    await asyncio.sleep(KEY_SECONDS / 2)
    await bucket.put("two", b"2")
    while True:
        try:
            await bucket.get("one")
        except (KeyNotFoundError, NotFoundError):
            break
        assert time.monotonic() - began < KEY_SECONDS + 5, "a key did not expire"
        await asyncio.sleep(0.02)
    lived = time.monotonic() - began
    assert lived >= KEY_SECONDS * 0.95, f"a key lived {lived:.2f} s instead of {KEY_SECONDS} s"
    same("the younger key", (await bucket.get("two")).value, b"2")


async def topics(stream) -> None:
    """A stream of seven days for each topic, and one in memory."""
    for topic in TOPICS:
        config = StreamConfig(name=topic.upper(), subjects=[f"{topic}.>"], max_age=WEEK_SECONDS, duplicate_window=120)
        held = (await stream.add_stream(config)).config
        same(topic, (held.max_age, held.duplicate_window, held.storage), (WEEK_SECONDS, 120, StorageType.FILE))
        same(f"the stream of {topic}", (await stream.publish(f"{topic}.first", b"x")).stream, topic.upper())
    events = StreamConfig(name="EVENTS", subjects=["events.>"], max_age=3600, storage=StorageType.MEMORY)
    held = (await stream.add_stream(events)).config
    same("events", (held.storage, held.max_age), (StorageType.MEMORY, 3600))
    same("the stream of events", (await stream.publish("events.a", b"x")).stream, "EVENTS")


async def duplicates(stream) -> None:
    """The same message id within two minutes is stored once."""
    first = await stream.publish("sfs.put", b"1", headers={"Nats-Msg-Id": "m1"})
    again = await stream.publish("sfs.put", b"1", headers={"Nats-Msg-Id": "m1"})
    other = await stream.publish("sfs.put", b"2", headers={"Nats-Msg-Id": "m2"})
    same("a duplicate", (again.duplicate, again.seq), (True, first.seq))
    same("another id", (other.duplicate, other.seq), (None, first.seq + 1))


async def workers(client, stream) -> None:
    """A durable consumer with a filter that delivers five times."""
    advised = await client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.COMPUTE.>")
    await client.flush()
    config = ConsumerConfig(durable_name="worker", ack_policy=AckPolicy.EXPLICIT, max_deliver=5, ack_wait=30,
                            filter_subject="compute.jobs.>")
    held = (await stream.add_consumer("COMPUTE", config)).config
    same("the consumer", (held.max_deliver, held.ack_wait, held.filter_subject), (5, 30, "compute.jobs.>"))
    await stream.publish("compute.other", b"no")
    await stream.publish("compute.jobs.a", b"good")
    await stream.publish("compute.jobs.b", b"bad")
    worker = await stream.pull_subscribe_bind("worker", "COMPUTE")
    good, bad = await take(worker, 2)
    same("what the filter lets through", [good.data, bad.data], [b"good", b"bad"])
    # Unacknowledged for less than the wait, nothing comes again.
    same("within AckWait", await take(worker, 1, 0.5), [])
    await good.ack_sync()
    for delivery in range(2, 6):
        await bad.nak()
        [bad] = await take(worker, 1)
        same("deliveries", bad.metadata.num_delivered, delivery)
    await bad.nak()
    same("after the fifth delivery", await take(worker, 1, 0.5), [])
    advisory = json.loads((await advised.next_msg(timeout=5)).data)
    same("the advisory", (advisory["deliveries"], advisory["consumer"]), (5, "worker"))
    # The same with a wait that runs out.
    config = ConsumerConfig(durable_name="hasty", ack_policy=AckPolicy.EXPLICIT, max_deliver=5, ack_wait=0.2,
                            filter_subject="compute.jobs.b")
    await stream.add_consumer("COMPUTE", config)
    hasty = await stream.pull_subscribe_bind("hasty", "COMPUTE")
    counts = [message.metadata.num_delivered for message in await take(hasty, 6, 3.0)]
    same("deliveries as the wait runs out", counts, [1, 2, 3, 4, 5])


async def replays(stream) -> None:
    """From a time on, and the last of each subject."""
    for text in (b"1", b"2"):
        await stream.publish("notify.a", text)
    await stream.publish("notify.b", b"3")
    await asyncio.sleep(0.05)
    since = datetime.datetime.now(datetime.timezone.utc).isoformat()
    await asyncio.sleep(0.05)
    for subject, text in (("notify.a", b"4"), ("notify.c", b"5")):
        await stream.publish(subject, text)
    late = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since)
    replayed = await take(await stream.pull_subscribe("notify.>", stream="NOTIFY", config=late), 3, 1.0)
    same("replay by start time", [message.data for message in replayed], [b"4", b"5"])
    last = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    lasting = await take(await stream.pull_subscribe("notify.>", stream="NOTIFY", config=last), 5, 1.0)
    found = {message.subject: message.data for message in lasting}
    same("last per subject", (len(lasting), found),
         (4, {"notify.first": b"x", "notify.a": b"4", "notify.b": b"3", "notify.c": b"5"}))


def lag(server: Server) -> dict:
    """What KEDA reads of the consumer `worker`."""
    [account] = server.get("/jsz?acc=NOETL&consumers=true&config=true")["account_details"]
    [compute] = [stream for stream in account["stream_detail"] if stream["name"] == "COMPUTE"]
    [worker] = [consumer for consumer in compute["consumer_detail"] if consumer["name"] == "worker"]
    return {name: worker[name] for name in ("num_pending", "num_ack_pending")} | {"ack_wait": worker["config"]["ack_wait"]}


async def tenants(server: Server) -> None:
    await entrance(server)
    client = await server.connect("noetl")
    stream = client.jetstream()
    await topics(stream)
    await asyncio.gather(sessions(stream), duplicates(stream), workers(client, stream), replays(stream))
    before = [(info.config.name, info.state.messages, info.state.last_seq) for info in await stream.streams_info()]
    before = sorted(entry for entry in before if entry[0] != "EVENTS")
    for number in range(3):
        await stream.publish(f"compute.jobs.c{number}", b"x")
    same("the lag", lag(server)["num_pending"], 3)
    await client.close()
    server.stop()
    server.start()
    client = await server.connect("noetl")
    stream = client.jetstream()
    after = {info.config.name: (info.state.messages, info.state.last_seq) for info in await stream.streams_info()}
    assert "EVENTS" not in after, "a stream in memory outlived the server"
    for name, messages, last_seq in before:
        more = 3 if name == "COMPUTE" else 0
        if name.startswith("KV_"):
            same(f"{name} after a restart", after[name][1], last_seq)
        else:
            same(f"{name} after a restart", after[name], (messages + more, last_seq + more))
    same("the lag after a restart", lag(server)["num_pending"], 3)
    same("AckWait after a restart", lag(server)["ack_wait"], 30_000_000_000)
    worker = await stream.pull_subscribe_bind("worker", "COMPUTE")
    left = [message.subject for message in await take(worker, 3)]
    same("what is left for the worker", left, [f"compute.jobs.c{number}" for number in range(3)])
    again = await stream.publish("sfs.put", b"1", headers={"Nats-Msg-Id": "m1"})
    same("a duplicate after a restart", again.duplicate, True)
    await fails("JetStream without the account", jetstream_of(server, "other"), APIError)
    await client.close()


async def jetstream_of(server: Server, user: str) -> None:
    client = await server.connect(user)
    try:
        await client.jetstream().add_stream(StreamConfig(name="X", subjects=["x"]))
    finally:
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=f"{shlex.quote(str(BINARY))} broker", help="the command that takes `-c FILE`")
    command = shlex.split(parser.parse_args().server)
    for name, text, check in (("a server", PLAIN, plain), ("tenants", TENANTS, tenants)):
        with tempfile.TemporaryDirectory(prefix="configurations-") as folder:
            server = Server(command, folder, text)
            try:
                server.start()
                asyncio.run(check(server))
            finally:
                server.stop()
        print(f"configurations: {name}: all held")


if __name__ == "__main__":
    main()
