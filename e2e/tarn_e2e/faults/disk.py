"""Faults of the disk: full, and damaged while the server is down."""

import os
import random
import shutil
import subprocess
import time

from . import judge
from .servers import Server, publisher

CONSUMER = {"stream_name": "F", "config": {"durable_name": "c", "ack_policy": "explicit", "deliver_policy": "all"}}


def fill(path, leave):
    """Writes `path` until the file system is full but for `leave` bytes."""
    free = os.statvfs(path.parent)
    size = free.f_bavail * free.f_frsize - leave
    with open(path, "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, max(size, 4096))


def until_refused(server, log, first):
    load = publisher(server, log, first=first, size=1024, window=64, seconds=15, stop_on_error=True)
    load.wait()
    _, _, refused = judge.read_log(log)
    return refused[-1][1] if refused else "silence"


def heals(server, log, first):
    """Seconds until publishes are taken again, without a restart."""
    began = time.monotonic()
    while time.monotonic() < began + 10:
        before = len(judge.read_log(log)[1])
        publisher(server, log, first=first, count=1, seconds=2, patience=1, size=1024).wait()
        first += 1
        if len(judge.read_log(log)[1]) > before:
            return f"{time.monotonic() - began:.1f} s"
        time.sleep(0.2)
    return "never"


def full(kind, work, size="64m"):
    mount = work / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], check=True)
    server, log = Server(kind, work, mount / "store"), work / "acks.log"
    log.touch()
    try:
        wire = server.start()
        server.create(wire)
        wire.request("$JS.API.CONSUMER.DURABLE.CREATE.F.c", CONSUMER)
        publisher(server, log, count=200, size=1024).wait()
        fill(mount / "filler", 12 << 20)
        code = until_refused(server, log, 10**6)
        going = []
        if wire.request("$JS.API.STREAM.MSG.GET.F", {"seq": 5}).get("message"):
            going.append("reads")
        if consume_and_ack(wire):
            going.append("acks")
        if wire.request("$JS.API.STREAM.MSG.DELETE.F", {"seq": 3}).get("success"):
            going.append("deletes")
        os.remove(mount / "filler")
        filler = heals(server, log, 2 * 10**6)
        fill(mount / "filler", 1 << 20)
        again = until_refused(server, log, 3 * 10**6)
        info = wire.request("$JS.API.STREAM.INFO.F")
        purged = wire.request("$JS.API.STREAM.PURGE.F")
        below = info["state"]["last_seq"] + 1 if purged.get("success") else 1
        after = heals(server, log, 4 * 10**6)
        wire.close()
        server.kill()
        os.remove(mount / "filler")
        wire = server.start()
        verdict = judge.hold(wire, log, below)
        verdict.acked = len(judge.read_log(log)[1])
        verdict.cases = 2
        verdict.remarks.append(
            f"refused with {code} and {again}; go on: {', '.join(going) or 'nothing'}; "
            f"heals when a file is deleted: {filler}, on purge ({'ok' if purged.get('success') else 'refused'}): {after}")
        verdict.healed = "never" not in (filler, after) and len(going) == 3 and code == again == "10047"
        return verdict
    finally:
        server.kill()
        subprocess.run(["umount", str(mount)], check=True)


def consume_and_ack(wire):
    """One message pulled, and its ack answered."""
    wire.socket.sendall(
        f"PUB $JS.API.CONSUMER.MSG.NEXT.F.c {wire.inbox}.n 1\r\n1\r\n".encode())
    words = wire.line().split()
    if len(words) < 5 or not words[3].startswith(b"$JS.ACK."):
        return False
    reply, size = words[3].decode(), int(words[-1])
    while len(wire.buffer) < size + 2:
        wire.more()
    wire.buffer = wire.buffer[size + 2 :]
    wire.send([("a", reply, b"+ACK")])
    wire.socket.settimeout(5)
    try:
        return wire.answer()[0] == "a"
    except TimeoutError:
        return False


def record_files(store):
    """The files that hold records, with the length that holds something."""
    found = []
    for path in sorted(store.rglob("*")):
        if path.suffix in (".seg", ".blk"):
            data = path.read_bytes().rstrip(b"\0")
            if data:
                found.append((path.relative_to(store), len(data)))
    return found


def flips(kind, work, count, seed, messages=2000):
    pick = random.Random(seed)
    origin = Server(kind, work, work / "origin")
    log = work / "acks.log"
    wire = origin.start()
    origin.create(wire)
    publisher(origin, log, count=messages).wait()
    time.sleep(0.5)
    origin.kill()
    files = record_files(origin.store)
    total = judge.Verdict(cases=count)
    worst = silent = broken = 0
    for number in range(count):
        folder = work / f"flip{number}"
        folder.mkdir()
        shutil.copytree(origin.store, folder / "store")
        name, length = pick.choice(files)
        place, bit = pick.randrange(length), pick.randrange(8)
        with open(folder / "store" / name, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))
        server = Server(kind, folder)
        try:
            verdict = judge.hold(server.start(), log)
        except RuntimeError:
            verdict, broken = judge.Verdict(acked=messages, lost=messages), broken + 1
        server.kill()
        told = any("lost in info" in r for r in verdict.remarks) or any(
            word in server.text() for word in ("lost", "[ERR]", "[WRN]", "orrupt", "checksum"))
        if verdict.lost and not told:
            silent += 1
        if verdict.lost > 1 or verdict.wrong:
            print(f"  {kind}: bit {bit} of byte {place} in {name}: {verdict}", flush=True)
        worst = max(worst, verdict.lost)
        total.add(verdict)
        shutil.rmtree(folder)
    total.remarks.append(f"most lost by one bit: {worst} of {messages}; unreported losses: {silent}")
    if broken:
        total.remarks.append(f"did not start: {broken}")
    total.worst, total.silent = worst, silent
    return total
