"""From `mosquitto_pub` and `nats-py` to PyIceberg, DuckDB and Trino, with the defaults of `tarn serve`."""

import asyncio
import datetime
import json
import subprocess
import tempfile
import time

from . import engines
from .server import MQTT_PORT, NATS_PORT, Tarn, wait_until
from .trino import Trino

UTC = datetime.timezone.utc
NOON = datetime.datetime(2025, 7, 15, 10, 30, tzinfo=UTC)

TEMPERATURE = '{"value": 22.5, "unit": "C", "timestamp": "2025-07-15T10:30:00Z"}'
HUMIDITY = '{"value": 45.2, "unit": "%", "timestamp": "2025-07-15T10:30:00Z"}'
MOTION = '{"detected": true, "timestamp": "2025-07-15T10:30:00Z"}'
DEVICE = ('{"device_id":"device001","sensor":"temperature","value":23.4,"unit":"celsius",'
          '"location":"living_room","timestamp":"2025-07-15T10:30:00Z"}')
BROKEN = ('{"value": 22.5, "unit"', "no reading at all")

# subject, device_id, sensor, metric, value, unit, location
EXPECTED = {
    ("sensors.temperature.room1", "room1", "temperature", "value", 22.5, "Cel", None),
    ("sensors.humidity.room1", "room1", "humidity", "value", 45.2, "%", None),
    ("sensors.motion.door1", "door1", "motion", "detected", 1.0, None, None),
    ("iot.sensors.temp.device001", "device001", "temperature", "value", 23.4, "Cel", "living_room"),
}


def mosquitto_pub(topic, payload):
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(MQTT_PORT), "-q", "1", "-t", topic, "-m", payload],
        check=True, timeout=20,
    )


async def publish(messages):
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{NATS_PORT}")
    stream = client.jetstream()
    for subject, payload in messages:
        await stream.publish(subject, payload.encode())
    await client.close()


def rows():
    return engines.pyiceberg_rows("readings")


def quoted_readings():
    """The readings of the documentation and two broken ones; each as one row within 15 s of the last publish."""
    mosquitto_pub("sensors/temperature/room1", TEMPERATURE)
    mosquitto_pub("sensors/humidity/room1", BROKEN[0])
    asyncio.run(publish([
        ("sensors.humidity.room1", HUMIDITY),
        ("sensors.motion.door1", MOTION),
        ("iot.sensors.temp.device001", DEVICE),
        ("sensors.motion.door1", BROKEN[1]),
    ]))
    began = time.monotonic()

    def arrived():
        return len(rows()) >= len(EXPECTED) and len(engines.pyiceberg_rows("dead_letters")) >= len(BROKEN)

    wait_until("four readings and two dead letters", arrived, timeout=15)
    seconds = time.monotonic() - began
    got = rows()
    assert len(got) == len(EXPECTED), got
    assert all(row["ts"] == NOON for row in got), got
    assert {(r["subject"], r["device_id"], r["sensor"], r["metric"], r["value"], r["unit"], r["location"])
            for r in got} == EXPECTED, got
    dead = engines.pyiceberg_rows("dead_letters")
    assert sorted(row["payload"] for row in dead) == sorted(b.encode() for b in BROKEN), dead
    assert all(row["reason"] and row["detail"] and row["stream"] and row["stream_seq"] > 0 for row in dead), dead
    return f"PyIceberg read 4 readings and 2 dead letters {seconds:.1f} s after the last publish"


def late_readings():
    """Two hours of one-minute windows, then readings that come late into windows long committed."""
    start = datetime.datetime.now(UTC).replace(second=0, microsecond=0) - datetime.timedelta(hours=2)

    def reading(device, minutes, seconds, value):
        ts = start + datetime.timedelta(minutes=minutes, seconds=seconds)
        return f"sensors.temperature.{device}", json.dumps({"value": value, "unit": "C", "timestamp": ts.isoformat()})

    before = len(rows())
    first = [reading(f"late{d}", m, s, 20 + d + m / 10 + s / 1000) for m in range(120) for s in (1, 30) for d in range(5)]
    asyncio.run(publish(first))
    wait_until("the readings in time", lambda: len(rows()) == before + len(first), timeout=30)
    late = [reading(f"late{d}", m, s, -40 - d) for m in range(0, 120, 7) for s in (0, 45) for d in range(5)]
    old = [(subject, json.dumps({"value": 1.5, "unit": "C", "timestamp": "2025-07-15T10:30:59Z"}))
           for subject in ("sensors.temperature.room1", "sensors.temperature.room9")]
    asyncio.run(publish(late + old))
    total = before + len(first) + len(late) + len(old)
    wait_until("the late readings", lambda: len(rows()) == total, timeout=30)
    return total


def run():
    with tempfile.TemporaryDirectory(prefix="tarn-e2e-") as folder, Tarn(folder) as tarn:
        print("readings:", quoted_readings(), flush=True)
        with Trino() as trino:
            duckdb = engines.DuckDb()
            for name, query in (("DuckDB", duckdb.query), ("Trino", trino.query)):
                got = set(query("SELECT subject, device_id, sensor, metric, value, unit, location FROM readings"))
                assert got == EXPECTED, (name, got)
                reasons = query("SELECT reason, subject, stream_seq FROM dead_letters")
                assert len(reasons) == 2, (name, reasons)
                print(f"readings: {name} reads the same; dead letters {sorted(r[0] for r in reasons)}", flush=True)
            total = late_readings()
            for name, query, words in (("DuckDB", engines.DuckDb().query, engines.DUCKDB),
                                       ("Trino", trino.query, engines.TRINO)):
                assert query("SELECT count(*) FROM readings") == [(total,)], name
                count = engines.compare_windows(query, words)
                print(f"readings: in {name} all {count} rows of readings_1m equal the GROUP BY over {total} readings",
                      flush=True)
            # A restart must change nothing, and late readings must go on correcting what is on disk.
            assert tarn.stop() == 0, tarn.tail()
            tarn.start()
            assert len(rows()) == total
            asyncio.run(publish([("sensors.temperature.late0",
                                  json.dumps({"value": 99.0, "unit": "C", "timestamp": "2025-07-15T10:30:10Z"})),
                                 ("sensors.temperature.room1",
                                  json.dumps({"value": -99.0, "unit": "F", "timestamp": "2025-07-15T10:30:20Z"}))]))
            wait_until("late readings after a restart", lambda: len(rows()) == total + 2, timeout=30)
            count = engines.compare_windows(trino.query, engines.TRINO)
            print(f"readings: after a restart and two more late ones Trino finds {count} of {count} equal", flush=True)


if __name__ == "__main__":
    run()
