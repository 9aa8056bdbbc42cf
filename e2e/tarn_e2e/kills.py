"""`kill -9` of `tarn serve` under load from MQTT QoS 1 and NATS; acknowledgements are logged by another process.

Each reading has a device and a time of its own. A publisher that lost its connection sends what was not acknowledged again,
as its protocol says: MQTT with DUP and the same packet id, NATS with the same Nats-Msg-Id.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from . import engines
from .server import MQTT_PORT, NATS_PORT, Tarn, wait_until

EPOCH_US = 1_750_000_000_000_000
MQTT_DEVICES = NATS_DEVICES = 4


def payload(n):
    us = EPOCH_US + n * 1000
    return json.dumps({"value": n % 1000 / 10, "unit": "C", "timestamp": us}).encode()


def key(device, n):
    return device, EPOCH_US + n * 1000


# --- the load, a process of its own: lines "sent|acked device n" on standard output ---


def log(event, device, n):
    sys.stdout.write(f"{event} {device} {n}\n")
    sys.stdout.flush()


def mqtt_device(device, stopping, window=64):
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
    client.connect("127.0.0.1", MQTT_PORT, keepalive=10)
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


async def nats_device(device, stopping, window=64):
    import nats
    from nats import errors

    async def quiet(_error):
        return

    client = await nats.connect(f"nats://127.0.0.1:{NATS_PORT}", reconnect_time_wait=0.1, max_reconnect_attempts=-1,
                                allow_reconnect=True, error_cb=quiet)
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


def load():
    """Runs until standard input closes."""
    import threading

    stopping = threading.Event()
    threads = [threading.Thread(target=mqtt_device, args=(f"mqtt{d}", stopping)) for d in range(MQTT_DEVICES)]

    async def nats_devices():
        await asyncio.gather(*(nats_device(f"nats{d}", stopping) for d in range(NATS_DEVICES)))

    threads.append(threading.Thread(target=lambda: asyncio.run(nats_devices())))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()


# --- the judge ---


def read_log(path):
    sent, acked = set(), set()
    for line in pathlib.Path(path).read_text().splitlines():
        event, device, n = line.split()
        (sent if event == "sent" else acked).add(key(device, int(n)))
    return sent, acked


def stored():
    table = engines.pyiceberg_table("readings").scan(selected_fields=("device_id", "ts")).to_arrow()
    times = table.column("ts").cast("int64").to_pylist()
    return collections.Counter(zip(table.column("device_id").to_pylist(), times))


def run(kills, seed):
    pick = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tarn-e2e-") as folder:
        tarn = Tarn(folder)
        tarn.start()
        ledger = pathlib.Path(folder) / "acknowledged.log"
        with open(ledger, "wb") as out:
            publishers = subprocess.Popen([sys.executable, "-m", "tarn_e2e.kills", "--load"],
                                          stdin=subprocess.PIPE, stdout=out)
        restarts = []
        for number in range(1, kills + 1):
            time.sleep(pick.uniform(0.5, 4.0))
            tarn.kill()
            restarts.append(tarn.start())
            print(f"kills: {number} of {kills}, ready again after {restarts[-1]:.2f} s", flush=True)
        time.sleep(2)
        publishers.stdin.close()
        assert publishers.wait(120) == 0, "the load did not end in order"
        sent, acked = read_log(ledger)
        assert len(acked) > kills * 50, f"only {len(acked)} acknowledged: that is no load"

        def complete():
            rows = stored()
            return rows if not acked - rows.keys() else None

        try:
            rows = wait_until("each acknowledged reading in the lake", complete, timeout=60)
        except AssertionError:
            missing = acked - stored().keys()
            raise AssertionError(f"{len(missing)} acknowledged readings are missing, such as {sorted(missing)[:5]}")
        doubled = [(k, n) for k, n in rows.items() if n > 1]
        assert not doubled, f"{len(doubled)} readings are there twice, such as {doubled[:5]}"
        strangers = rows.keys() - sent
        assert not strangers, f"rows that nobody sent: {sorted(strangers)[:5]}"
        dead = engines.pyiceberg_rows("dead_letters")
        assert not dead, dead[:3]
        windows = engines.compare_windows(engines.DuckDb().query, engines.DUCKDB)
        by = collections.Counter(device[:4] for device, _ in acked)
        assert tarn.stop() == 0, tarn.tail()
        print(f"kills: {kills} × kill -9, seed {seed}: {len(sent)} sent, {len(acked)} acknowledged "
              f"({by['mqtt']} MQTT QoS 1, {by['nats']} NATS), {len(rows)} stored, 0 missing, 0 doubled; "
              f"{windows} windows equal the GROUP BY; slowest restart {max(restarts):.2f} s", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    if options.load:
        load()
    else:
        run(options.kills, options.seed)


if __name__ == "__main__":
    main()
