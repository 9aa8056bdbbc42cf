"""A fleet that publishes readings over MQTT QoS 1 and NATS, in a process of its own, and what has become of them in the lake.

Each reading has a device and a time of its own. A publisher that lost its connection sends what was not acknowledged again,
as its protocol says: MQTT with DUP and the same packet id, NATS with the same Nats-Msg-Id.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import subprocess
import sys
import threading
import time

from . import engines
from .server import MQTT_PORT, NATS_PORT, wait_until

EPOCH_US = 1_750_000_000_000_000
MQTT_DEVICES = NATS_DEVICES = 4
KEEPALIVE = 4


def payload(n):
    us = EPOCH_US + n * 1000
    return json.dumps({"value": n % 1000 / 10, "unit": "C", "timestamp": us}).encode()


def key(device, n):
    return device, EPOCH_US + n * 1000


# --- the load, a process of its own: lines "sent|acked device n" on standard output ---


def log(event, device, n):
    sys.stdout.write(f"{event} {device} {n}\n")
    sys.stdout.flush()


def mqtt_device(device, port, stopping, window=64):
    """One paho client with a persistent session; it resends with DUP by itself. Returns when all was acknowledged."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=device, clean_session=False)
    client.max_inflight_messages_set(window)
    client.reconnect_delay_set(min_delay=1, max_delay=1)
    pending = {}

    def on_publish(_client, _data, mid, _reason, _properties):
        n = pending.pop(mid, None)
        if n is not None:
            log("acked", device, n)

    client.on_publish = on_publish
    client.connect("127.0.0.1", port, keepalive=KEEPALIVE)
    n = 0
    deadline = None
    while True:
        try:
            if not stopping.is_set() and len(pending) < window:
                # The packet id is known only once it is sent: paho answers on this same thread, in `loop`.
                info = client.publish(f"sensors/temperature/{device}", payload(n), qos=1)
                pending[info.mid] = n
                log("sent", device, n)
                n += 1
            status = client.loop(0.0005 if len(pending) < window else 0.01)
            if status != mqtt.MQTT_ERR_SUCCESS:
                time.sleep(0.1)
                client.reconnect()
        except OSError:
            time.sleep(0.1)
            try:
                client.reconnect()
            except OSError:
                continue
        if stopping.is_set():
            deadline = deadline or time.monotonic() + 30
            if not pending or time.monotonic() > deadline:
                client.disconnect()
                return


async def nats_device(device, port, stopping, window=64):
    import nats
    from nats import errors

    async def quiet(_error):
        return

    client = await nats.connect(f"nats://127.0.0.1:{port}", reconnect_time_wait=0.1, max_reconnect_attempts=-1,
                                allow_reconnect=True, error_cb=quiet, connect_timeout=2,
                                ping_interval=KEEPALIVE / 2, max_outstanding_pings=2)
    stream = client.jetstream(timeout=2)
    slots = asyncio.Semaphore(window)

    async def until_acked(n):
        headers = {"Nats-Msg-Id": f"{device}-{n}"}
        while True:
            try:
                await stream.publish(f"sensors.temperature.{device}", payload(n), headers=headers)
                log("acked", device, n)
                break
            except (errors.Error, OSError):
                await asyncio.sleep(0.1)
        slots.release()

    tasks = collections.deque()
    n = 0
    while not stopping.is_set():
        await slots.acquire()
        log("sent", device, n)
        tasks.append(asyncio.create_task(until_acked(n)))
        n += 1
        while tasks and tasks[0].done():
            tasks.popleft().result()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    await client.close()


def load(mqtt_port, nats_port):
    """Runs until standard input closes."""
    stopping = threading.Event()
    threads = [threading.Thread(target=mqtt_device, args=(f"mqtt{d}", mqtt_port, stopping)) for d in range(MQTT_DEVICES)]

    async def nats_devices():
        await asyncio.gather(*(nats_device(f"nats{d}", nats_port, stopping) for d in range(NATS_DEVICES)))

    threads.append(threading.Thread(target=lambda: asyncio.run(nats_devices())))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mqtt-port", type=int, required=True)
    parser.add_argument("--nats-port", type=int, required=True)
    options = parser.parse_args()
    load(options.mqtt_port, options.nats_port)


# --- its owner, and the judge ---


def key_of(line):
    event, device, n = line.split()
    return event, key(device, int(n))


class Fleet:
    """The process of the load, which outlives the server, and its ledger in `folder`."""

    def __init__(self, folder, mqtt_port=MQTT_PORT, nats_port=NATS_PORT):
        self.ledger = pathlib.Path(folder) / "acknowledged.log"
        with open(self.ledger, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tarn_e2e.fleet", "--mqtt-port", str(mqtt_port), "--nats-port", str(nats_port)],
                stdin=subprocess.PIPE, stdout=out)

    def stop(self):
        """Sends what is left; returns the readings sent and those acknowledged."""
        self.process.stdin.close()
        assert self.process.wait(120) == 0, "the load did not end in order"
        return self.read()

    def read(self):
        sent, acked = set(), set()
        for line in self.ledger.read_text().splitlines():
            event, reading = key_of(line)
            (sent if event == "sent" else acked).add(reading)
        return sent, acked


def stored(catalog):
    table = engines.pyiceberg_table("readings", catalog).scan(selected_fields=("device_id", "ts")).to_arrow()
    times = table.column("ts").cast("int64").to_pylist()
    return collections.Counter(zip(table.column("device_id").to_pylist(), times))


def hold(sent, acked, catalog=engines.CATALOG):
    """Each acknowledged reading is in the lake once, and nothing else. Returns a sentence with the figures."""
    def complete():
        rows = stored(catalog)
        return rows if not acked - rows.keys() else None

    try:
        rows = wait_until("each acknowledged reading in the lake", complete, timeout=60)
    except AssertionError:
        missing = acked - stored(catalog).keys()
        raise AssertionError(f"{len(missing)} acknowledged readings are missing, such as {sorted(missing)[:5]}") from None
    doubled = [(k, n) for k, n in rows.items() if n > 1]
    assert not doubled, f"{len(doubled)} readings are there twice, such as {doubled[:5]}"
    strangers = rows.keys() - sent
    assert not strangers, f"rows that nobody sent: {sorted(strangers)[:5]}"
    dead = engines.pyiceberg_rows("dead_letters", catalog=catalog)
    assert not dead, dead[:3]
    windows = engines.compare_windows(engines.DuckDb(catalog).query, engines.DUCKDB)
    by = collections.Counter(device[:4] for device, _ in acked)
    return (f"{len(sent)} sent, {len(acked)} acknowledged ({by['mqtt']} MQTT QoS 1, {by['nats']} NATS), {len(rows)} stored, "
            f"0 missing, 0 doubled; {windows} windows equal the GROUP BY")


if __name__ == "__main__":
    main()
