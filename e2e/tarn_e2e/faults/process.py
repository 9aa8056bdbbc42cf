"""Faults of the process and its system calls: `kill -9`, and a sync that fails."""

import random
import re
import time

from ..server import wait_until
from . import judge
from .servers import Server, publisher


def acknowledged_from(log, first):
    """Whether the end of the log has an acknowledgement of a number from `first` on."""
    if not log.exists():
        return False
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 16384))
        words = (line.split() for line in file.read().splitlines()[1:])
        return any(len(w) == 4 and w[0] == b"A" and int(w[1]) >= first for w in words)


def kills(kind, work, count, seed):
    pick = random.Random(seed)
    server, log, first = Server(kind, work), work / "acks.log", 0
    wire = server.start()
    server.create(wire)
    slowest = 0.0
    for _ in range(count):
        wire.close()
        load = publisher(server, log, first=first, count=100_000)
        # The load has begun when something was acknowledged.
        wait_until("an acknowledgement", lambda first=first: acknowledged_from(log, first), timeout=10)
        time.sleep(pick.uniform(0.0, 0.3))
        server.kill()
        load.wait()
        first += 100_000
        began = time.monotonic()
        wire = server.start()
        slowest = max(slowest, time.monotonic() - began)
    verdict = judge.hold(wire, log)
    server.kill()
    verdict.cases = count
    verdict.remarks.append(f"slowest restart {slowest:.2f} s")
    return verdict


def failing_syncs(kind, work, numbers):
    """A server of its own for each N; strace counts the calls of each thread."""
    total = judge.Verdict(cases=len(numbers))
    hit = late = asked = unhealthy = refused_to_start = 0
    for number in numbers:
        folder = work / f"sync{number}"
        folder.mkdir()
        server, log, trace = Server(kind, folder), folder / "acks.log", folder / "strace.log"
        call = "fdatasync" if kind == "tarn" else "fsync,fdatasync"
        log.touch()
        load = None
        try:
            wire = server.start(["strace", "-D", "-f", "-ttt", "-o", str(trace), "-e", f"trace={call}",
                                 "-e", f"inject={call}:error=EIO:when={number}"])
            server.create(wire)
            wire.close()
            # A small window: many syncs for few messages.
            load = publisher(server, log, window=4, count=number * 12 + 400, seconds=6, patience=1)
            load.wait()
            health = server.healthy()
        except (RuntimeError, OSError):
            refused_to_start += 1
            health = None
        server.kill()
        _, acked, _ = judge.read_log(log)
        failed = [float(m[1]) for m in re.finditer(r"^\d+ +([\d.]+) .*\(INJECTED\)", trace.read_text(), re.M)]
        if failed:
            hit += 1
            # Answers already on their way are given a tenth of a second.
            late += sum(at > failed[0] + 0.1 for _, _, at in acked)
            # A server that would not start, or refused the stream, has said so.
            asked += load is not None
            unhealthy += load is not None and health is False
        if load is not None:
            wire = server.start()
            total.add(judge.hold(wire, log))
            server.kill()
    total.remarks.append(f"failed in {hit} of {len(numbers)}; {late} acks after the failure; "
                         f"unhealthy in {unhealthy} of {asked}")
    if refused_to_start:
        total.remarks.append(f"refused to start or to create the stream: {refused_to_start}")
    total.late = late
    total.silent = asked - unhealthy
    return total
