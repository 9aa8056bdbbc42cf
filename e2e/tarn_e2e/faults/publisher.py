"""A publisher in a process of its own, which writes what it sent and what was acknowledged; it outlives the server.

Lines: `S number`, `A number seq time`, `E number code time` (refused), `C time` (connection gone). Ends when told to, when
`--count` are sent, or when the connection breaks.
"""

import argparse
import hashlib
import json
import sys
import time

from .wire import Wire


def payload(number, size=128):
    text = f"{number:012d}:".encode()
    return text + (hashlib.sha256(text).hexdigest() * (size // 64 + 1)).encode()[: size - len(text)]


def number_of(data):
    """The number in an untouched payload; None when a byte is wrong."""
    try:
        number = int(data[:12])
    except ValueError:
        return None
    return number if payload(number, len(data)) == data else None


def publish(options, log):
    wire = Wire(options.port)
    number, end, pending = options.first, time.monotonic() + options.seconds, 0
    while pending or (time.monotonic() < end and number < options.first + options.count):
        if time.monotonic() < end:
            room = min(options.window - pending, options.first + options.count - number)
            batch = range(number, number + room)
            log.write("".join(f"S {n}\n" for n in batch))
            log.flush()
            wire.send([(n, "f.load", payload(n, options.size)) for n in batch])
            number, pending = number + room, pending + room
        elif time.monotonic() > end + options.patience:
            return
        token, headers, body = wire.answer()
        pending -= 1
        answer = {"error": {"err_code": 503}} if b" 503" in headers[:16] else json.loads(body)
        if "error" in answer:
            log.write(f"E {token} {answer['error'].get('err_code')} {time.time():.6f}\n")
            if options.stop_on_error:
                return
            time.sleep(0.0005)
        else:
            log.write(f"A {token} {answer['seq']} {time.time():.6f}\n")
        log.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=10**9)
    parser.add_argument("--patience", type=float, default=3)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--stop-on-error", action="store_true")
    options = parser.parse_args()
    with open(options.log, "a") as log:
        try:
            publish(options, log)
        except OSError:
            log.write(f"C {time.time():.6f}\n")


if __name__ == "__main__":
    sys.exit(main())
