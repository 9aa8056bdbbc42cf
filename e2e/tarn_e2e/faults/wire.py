"""As much of the NATS protocol as the fault runs need, on a blocking socket: requests pipelined in a window."""

import json
import os
import socket
import time


class Wire:
    def __init__(self, port, timeout=5):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.buffer = b""
        self.inbox = f"_INBOX.{os.getpid()}{time.monotonic_ns()}"
        self.line()
        self.socket.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
            + f"SUB {self.inbox}.* 1\r\nPING\r\n".encode()
        )
        while self.line() != b"PONG":
            continue

    def more(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def line(self):
        while (end := self.buffer.find(b"\r\n")) < 0:
            self.more()
        line, self.buffer = self.buffer[:end], self.buffer[end + 2 :]
        return line

    def send(self, requests):
        """`requests`: (token, subject, payload); the token comes back with the answer."""
        self.socket.sendall(b"".join(
            f"PUB {subject} {self.inbox}.{token} {len(payload)}\r\n".encode() + payload + b"\r\n"
            for token, subject, payload in requests
        ))

    def receive(self):
        """The next message: subject, headers, payload."""
        while True:
            words = self.line().split()
            if words[:1] == [b"PING"]:
                self.socket.sendall(b"PONG\r\n")
            elif words and words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                while len(self.buffer) < size + 2:
                    self.more()
                body, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
                cut = int(words[-2]) if words[0] == b"HMSG" else 0
                return words[1].decode(), body[:cut], body[cut:]
            elif words[:1] == [b"-ERR"]:
                raise ConnectionError(b" ".join(words).decode())

    def answer(self):
        """The next answer to a request: its token, headers, payload."""
        subject, headers, payload = self.receive()
        return subject.rsplit(".", 1)[1], headers, payload

    def request(self, subject, payload=b""):
        if not isinstance(payload, bytes):
            payload = json.dumps(payload).encode()
        self.send([("r", subject, payload)])
        while True:
            token, headers, body = self.answer()
            if token == "r":
                if b" 503" in headers[:16]:
                    raise ConnectionError(f"nobody answers {subject}")
                return json.loads(body)

    def close(self):
        self.socket.close()


def read_all(wire, stream, first, last, window=256):
    """Sequence → payload, through direct gets; what the server does not give is absent."""
    found = {}
    pending, following = 0, first
    while following <= last or pending:
        ready = range(following, min(last + 1, following + window - pending))
        wire.send([(seq, f"$JS.API.DIRECT.GET.{stream}", b'{"seq":%d}' % seq) for seq in ready])
        following, pending = following + len(ready), pending + len(ready)
        token, headers, payload = wire.answer()
        pending -= 1
        if b"Nats-Sequence: " in headers:
            seq = int(headers.split(b"Nats-Sequence: ")[1].split(b"\r\n")[0])
            assert seq == int(token), f"asked for {token}, given {seq}"
            found[seq] = payload
    return found
