"""The servers under test, each with a store folder, kernel-given ports and a log of its own."""

import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from ..server import BINARY, CACHE
from .wire import Wire

KINDS = {"tarn": "tarn broker", "nats": "nats-server, defaults", "nats-always": "nats-server, `sync_interval: always`"}
STREAM = {"name": "F", "subjects": ["f.>"], "storage": "file", "allow_direct": True, "num_replicas": 1,
          "retention": "limits", "discard": "new"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, kind, work, store=None):
        self.kind, self.work = kind, pathlib.Path(work)
        self.store = pathlib.Path(store or self.work / "store")
        self.log = self.work / "server.log"
        self.process = None

    def command(self):
        listen = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor)]
        if self.kind == "tarn":
            return [str(BINARY), "broker", "-js", "-sd", str(self.store), *listen]
        if self.kind == "nats":
            return [str(CACHE / "nats-server"), "-js", "-sd", str(self.store), *listen]
        config = self.work / "always.conf"
        config.write_text(f'jetstream {{ store_dir: "{self.store}", sync_interval: always }}\n')
        return [str(CACHE / "nats-server"), "-c", str(config), *listen]

    def start(self, wrap=(), timeout=20):
        self.port, self.monitor = free_port(), free_port()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*wrap, *self.command()], stdout=log, stderr=log)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                wire = Wire(self.port)
                wire.request("$JS.API.INFO")
                return wire
            except OSError:
                time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.kind} did not start: {self.text()[-600:]}")

    def create(self, wire):
        answer = wire.request("$JS.API.STREAM.CREATE.F", STREAM)
        if "error" in answer:
            raise RuntimeError(f"no stream: {answer['error']}")

    def healthy(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=3) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False
        except OSError:
            return None

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def publisher(server, log, **options):
    arguments = [sys.executable, "-m", "tarn_e2e.faults.publisher", "--port", str(server.port), "--log", str(log)]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return subprocess.Popen(arguments)
