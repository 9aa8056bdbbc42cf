"""The two servers side by side, and a client that speaks the protocol byte by byte."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ..server import BINARY, CACHE, free_port

READY_SECONDS = 15.0
# How long nothing more has to come until an answer counts as complete.
QUIET_SECONDS = 0.15


# JetStream for who says nothing of itself, and a system account. Both servers sync before they acknowledge: Tarn always does.
TWO_ACCOUNTS = """
jetstream { sync_interval: always }
accounts {
  $SYS { users: [{user: sys, password: sys}] }
  APP { jetstream: enabled, users: [{user: app, password: app}] }
}
no_auth_user: app
"""


def commands() -> dict[str, list[str]]:
    """How each server is started; flags and configuration are nats-server's in both cases."""
    return {"nats-server": [str(CACHE / "nats-server")], "tarn": [str(BINARY), "broker"]}


class Server:
    """A server with an empty store on free ports, stopped when the block ends."""

    def __init__(self, command: list[str], config: str = "", http: bool = False, flags: tuple[str, ...] = ()):
        self.folder = Path(tempfile.mkdtemp(prefix="conformance-"))
        self.log = self.folder / "log"
        arguments = [*command, "-js", "-sd", str(self.folder / "store"), "-a", "127.0.0.1", "-p", "-1", "-n", "server"]
        self.http_port = free_port() if http else None
        if http:
            arguments += ["-m", str(self.http_port)]
        if config:
            path = self.folder / "nats.conf"
            path.write_text(config)
            arguments += ["-c", str(path)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*arguments, *flags], stdout=log, stderr=log)
        self.port = self._port()

    def _port(self) -> int:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace")
            found = re.search(r"client connections on \S*:(\d+)", text)
            if found and "Server is ready" in text:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start: {self.log.read_text(errors='replace')}")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Message:
    """One MSG or HMSG."""

    def __init__(self, subject: str, reply: str, headers: bytes, payload: bytes):
        self.subject, self.reply, self.headers, self.payload = subject, reply, headers, payload


class Wire:
    """A connection without a client library: what was said is what was sent."""

    def __init__(self, port: int, connect: dict | None = None):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = b""
        self.inbox = f"_INBOX.{os.urandom(6).hex()}"
        self.count = 0
        self.info = json.loads(self._line().removeprefix(b"INFO "))
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1}
        self.send(b"CONNECT " + json.dumps(options | (connect or {})).encode() + b"\r\nPING\r\n")
        while self._line() != b"PONG":
            pass
        self.send(f"SUB {self.inbox}.> 1\r\n".encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None, wait: float) -> list[Message]:
        """Sends a request and takes what comes back: one answer, or more until it is quiet for a moment."""
        self.count += 1
        reply = f"{self.inbox}.{self.count}"
        self.publish(subject, payload, headers, reply)
        return self.take(reply, wait)

    def ask_one(self, subject: str, payload: bytes, headers: dict[str, str] | None, wait: float) -> list[Message]:
        """Sends a request and takes its first answer, or the error that comes instead."""
        self.count += 1
        reply = f"{self.inbox}.{self.count}"
        self.publish(subject, payload, headers, reply)
        deadline = time.monotonic() + wait
        while message := self._message(deadline - time.monotonic()):
            if message.subject in (reply, "-ERR"):
                return [message]
        return []

    def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None, reply: str = "") -> None:
        reply = f" {reply}" if reply else ""
        if headers:
            block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
            head = f"HPUB {subject}{reply} {len(block.encode())} {len(block.encode()) + len(payload)}\r\n"
            self.send(head.encode() + block.encode() + payload + b"\r\n")
        else:
            self.send(f"PUB {subject}{reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def take(self, reply: str, wait: float) -> list[Message]:
        """What arrives for `reply`: waits up to `wait` seconds for the first and a moment for each more."""
        found: list[Message] = []
        deadline = time.monotonic() + wait
        while True:
            message = self._message(deadline - time.monotonic())
            if message is None:
                return found
            if message.subject == reply or reply == "" or not message.subject.startswith("_INBOX."):
                found.append(message)
                deadline = time.monotonic() + QUIET_SECONDS

    def _message(self, wait: float) -> Message | None:
        deadline = time.monotonic() + wait
        while True:
            line = self._line(deadline - time.monotonic())
            if line is None:
                return None
            words = line.split(b" ")
            if words[0] == b"PING":
                self.send(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                sizes = 1 if words[0] == b"MSG" else 2
                texts = [word.decode(errors="replace") for word in words[1:]]
                total, head = int(texts[-1]), int(texts[-2]) if sizes == 2 else 0
                body = self._bytes(total + 2)[:total]
                reply = texts[2] if len(texts) == 3 + sizes else ""
                return Message(texts[0], reply, body[:head], body[head:])
            elif words[0] == b"-ERR":
                return Message("-ERR", "", b"", line)

    def _line(self, wait: float = READY_SECONDS) -> bytes | None:
        deadline = time.monotonic() + wait
        while b"\r\n" not in self.buffer:
            if not self._read(deadline - time.monotonic()):
                return None
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line.strip()

    def _bytes(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self._read(READY_SECONDS):
                raise RuntimeError("the server stopped within a message")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def _read(self, wait: float) -> bool:
        if wait <= 0:
            return False
        self.socket.settimeout(wait)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return False
        self.buffer += data
        return bool(data)

    def close(self) -> None:
        self.socket.close()


def converse(port: int, script: list[bytes], quiet: float = 0.12) -> bytes:
    """Sends the pieces of `script` on a connection of its own; gives all that came back and whether it was closed."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        said = b""
        for piece in [b"", *script]:
            try:
                connection.sendall(piece)
            except OSError:
                return said + b"<closed>"
            connection.settimeout(quiet)
            try:
                while data := connection.recv(1 << 16):
                    said += data
                return said + b"<closed>"
            except TimeoutError:
                continue
            except OSError:
                return said + b"<closed>"
        return said
