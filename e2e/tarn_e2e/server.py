"""Starts, stops and kills a real `tarn serve`, in a folder of its own."""

import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CACHE = pathlib.Path(os.environ.get("TARN_E2E_CACHE", ROOT / "target" / "e2e"))
BINARY = pathlib.Path(os.environ.get("TARN_BIN", TARGET / "release" / "tarn"))

MQTT_PORT, NATS_PORT, HTTP_PORT, MONITOR_PORT = 1883, 4222, 8181, 8222
CATALOG = f"http://127.0.0.1:{HTTP_PORT}/catalog"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Ports:
    """Where a server listens; the usual ports need no flags."""

    mqtt: int = MQTT_PORT
    nats: int = NATS_PORT
    http: int = HTTP_PORT
    monitor: int = MONITOR_PORT

    @classmethod
    def free(cls):
        return cls(free_port(), free_port(), free_port(), free_port())

    def flags(self):
        if self == Ports():
            return []
        return [f"--{name}-listen=127.0.0.1:{port}" for name, port in dataclasses.asdict(self).items()]


class Tarn:
    """`tarn serve` with its defaults: usual ports, `tarn-data` in `folder`."""

    def __init__(self, folder, *arguments, environment=None, ports=Ports()):
        self.folder = pathlib.Path(folder)
        self.ports = ports
        self.arguments = [*ports.flags(), *arguments]
        self.environment = {**os.environ, **(environment or {})}
        self.process = None
        self.log = self.folder / "tarn.log"

    @property
    def catalog(self):
        return f"http://127.0.0.1:{self.ports.http}/catalog"

    def start(self, timeout=30):
        """Returns the seconds until `/readyz` answered 200."""
        began = time.monotonic()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "serve", *self.arguments],
                cwd=self.folder, stdout=log, stderr=log, env=self.environment,
            )
        while time.monotonic() - began < timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"tarn serve ended with {self.process.returncode}:\n{self.tail()}")
            if ready(self.ports.http):
                return time.monotonic() - began
            time.sleep(0.05)
        raise RuntimeError(f"tarn serve was not ready after {timeout} s:\n{self.tail()}")

    def kill(self):
        """`kill -9`, no warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=60):
        """SIGTERM; returns the exit code."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            if kind is None:
                code = self.stop()
                assert code == 0, f"tarn serve ended with {code} on SIGTERM:\n{self.tail()}"
            else:
                self.kill()


def ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_until(what, probe, timeout):
    """Calls `probe` until it gives something true; fails after `timeout` seconds with the last thing it gave."""
    deadline = time.monotonic() + timeout
    last = None
    while time.monotonic() < deadline:
        last = probe()
        if last:
            return last
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
