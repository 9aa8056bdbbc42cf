"""Bad networks between devices and `tarn serve`; clients that do not read and 10,000 idle connections on `tarn broker`."""

import argparse
import json
import pathlib
import resource
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from . import proxy
from .faults.wire import Wire
from .fleet import KEEPALIVE, Fleet, hold
from .proxy import Proxy
from .server import BINARY, Ports, Tarn, free_port, wait_until

MIB = 1 << 20


def memory(process, what="VmRSS"):
    """Resident memory of a process, in bytes; `VmHWM` is the most it ever was, `RssAnon` leaves out what it shares with files."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {what} of {process.pid}")


# --- partitions, half-open connections, trickle ---


def wires_in(wires, seconds, cut=False, **modes):
    """Puts the wires in these modes for a while; then everything passes again, on new connections if the old ones are cut."""
    for wire in wires:
        wire.set(**modes)
    time.sleep(seconds)
    for wire in wires:
        if cut:
            wire.cut()
        wire.set()


def partition(wires):
    """Nothing passes for 3 s, then all that was on its way arrives."""
    wires_in(wires, 3, up=proxy.HOLD, down=proxy.HOLD)


def partition_and_reset(wires):
    """Nothing passes for 3 s; what was on its way is lost with its connection."""
    wires_in(wires, 3, cut=True, up=proxy.HOLD, down=proxy.HOLD)


def lost_answers(wires):
    """The server hears everything for 2 s, the devices nothing: then each sends again what the server has already kept."""
    wires_in(wires, 2, cut=True, down=proxy.HOLD)


def half_open(wires):
    """The devices lose their connections, the server does not notice."""
    for wire in wires:
        assert wire.abandon() > 0


def trickle(wires):
    """Seven bytes at a time, 1.4 kB/s a connection, for 5 s."""
    wires_in(wires, 5, up=proxy.TRICKLE, down=proxy.TRICKLE)


KINDS = (partition, partition_and_reset, lost_answers, half_open, trickle)


def bad_networks(rounds, limit):
    with tempfile.TemporaryDirectory(prefix="tarn-e2e-") as folder, Tarn(folder, ports=Ports.free()) as tarn:
        mqtt, nats = Proxy(tarn.ports.mqtt), Proxy(tarn.ports.nats)
        fleet = Fleet(folder, mqtt.port, nats.port)
        resumed = []

        def acknowledged():
            _, acked = fleet.read()
            return {name: sum(device.startswith(name) for device, _ in acked) for name in ("mqtt", "nats")}

        def goes_on():
            before = acknowledged()
            began = time.monotonic()
            wait_until("acknowledgements of both protocols go on",
                       lambda: all(acknowledged()[name] > count + 50 for name, count in before.items()), timeout=30)
            return time.monotonic() - began

        goes_on()
        for number in range(rounds):
            fault = KINDS[number % len(KINDS)]
            fault((mqtt, nats))
            resumed.append(goes_on())
            print(f"network: {fault.__name__}: both protocols go on after {resumed[-1]:.1f} s, "
                  f"{memory(tarn.process) / MIB:.0f} MiB resident", flush=True)
        given_up = wait_until("the server gives up MQTT connections that went silent",
                              lambda: mqtt.closed_by_server() == len(mqtt.abandoned) and len(mqtt.abandoned),
                              timeout=KEEPALIVE * 3)
        sent, acked = fleet.stop()
        figures = hold(sent, acked, tarn.catalog)
        peak = memory(tarn.process, "VmHWM")
        assert peak < limit, f"{peak / MIB:.0f} MiB resident at the most, {limit / MIB:.0f} allowed"
        mqtt.close()
        nats.close()
        print(f"network: {rounds} faults: {figures}; {given_up} silent MQTT connections given up; "
              f"slowest to go on {max(resumed):.1f} s; at most {peak / MIB:.0f} MiB resident", flush=True)


# --- clients that do not read; many that do nothing ---


class Broker:
    """`tarn broker` with 4 MB of unsent bytes for each client."""

    def __init__(self, folder):
        self.port, self.monitor = free_port(), free_port()
        config = pathlib.Path(folder) / "broker.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\nhttp: "127.0.0.1:{self.monitor}"\nmax_pending: 4MB\n'
                          f'max_connections: 16000\njetstream {{ store_dir: "{folder}/store" }}\n')
        self.log = pathlib.Path(folder) / "broker.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([BINARY, "broker", "-c", str(config)], stdout=log, stderr=log)
        wait_until("the broker answers", lambda: self.process.poll() is None and self.answers(), timeout=20)

    def answers(self):
        try:
            return self.get("healthz").get("status") == "ok"
        except OSError:
            return False

    def get(self, what):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{what}", timeout=5) as answer:
            return json.load(answer)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def greet(port, more=b""):
    """A connected client that has said CONNECT and heard PONG."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(b'CONNECT {"verbose":false}\r\n' + more + b"PING\r\n")
    heard = b""
    while b"PONG\r\n" not in heard:
        data = client.recv(4096)
        assert data, "the server closed the connection"
        heard += data
    return client


def crowd(idle, sleepers, limit, each):
    with tempfile.TemporaryDirectory(prefix="tarn-e2e-") as folder, Broker(folder) as broker:
        empty = memory(broker.process, "RssAnon")
        began = time.monotonic()
        crowd = [greet(broker.port) for _ in range(idle)]
        connected = time.monotonic() - began
        cost = (memory(broker.process, "RssAnon") - empty) / idle
        assert cost < each, f"an idle connection costs {cost:.0f} bytes, {each} allowed"
        asleep = [greet(broker.port, b"SUB flood 1\r\n") for _ in range(sleepers)]
        awake = Wire(broker.port)
        awake.socket.sendall(b"SUB echo 9\r\n")
        load, answered = Wire(broker.port), 0
        chunk = b"".join(b"PUB flood 4096\r\n" + b"x" * 4096 + b"\r\n" for _ in range(64))
        while broker.get("varz")["slow_consumers"] < sleepers:
            assert time.monotonic() - began < 120, "clients that do not read are not cut off"
            load.socket.sendall(chunk)
            load.socket.sendall(b"PUB echo 2\r\nhi\r\n")
            subject, _, payload = awake.receive()
            assert (subject, payload) == ("echo", b"hi")
            answered += 1
        still = sum(client.send(b"PING\r\n") > 0 and client.recv(64) == b"PONG\r\n" for client in crowd[:: max(1, idle // 100)])
        assert still == len(crowd[:: max(1, idle // 100)]), f"only {still} idle clients are still answered"
        peak = memory(broker.process, "VmHWM")
        assert peak < limit, f"{peak / MIB:.0f} MiB resident at the most, {limit / MIB:.0f} allowed"
        for client in crowd + asleep:
            client.close()
        load.close()
        awake.close()
        assert broker.stop() == 0, broker.log.read_text(errors="replace")[-2000:]
        print(f"network: {idle} idle connections in {connected:.1f} s, {cost / 1024:.1f} kB each; {sleepers} clients "
              f"that do not read cut off, {answered} answers to another meanwhile; at most {peak / MIB:.0f} MiB resident", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(KINDS), help="faults of the network, each kind in turn")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections")
    parser.add_argument("--sleepers", type=int, default=4, help="clients that do not read")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > options.idle + 200, f"{hard} open files allowed: raise it (ulimit -n) or lower --idle"
    bad_networks(options.rounds, limit=256 * MIB)
    crowd(options.idle, options.sleepers, limit=64 * MIB, each=3 * 1024)


if __name__ == "__main__":
    main()
