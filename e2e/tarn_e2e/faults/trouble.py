"""A disk that is slow, and a file system that turns read-only under the server."""

import os
import pathlib
import re
import subprocess
import threading
import time

from . import judge
from .disk import consume_and_ack
from .servers import Server, publisher
from .wire import Wire

DELAY_S = 0.2
FLOOD_BYTES = 16384
SYSFS = pathlib.Path("/sys/fs/ext4")


class Flood:
    """Publishes to the stream `G` without waiting for anything, as fast as the server takes it."""

    def __init__(self, server):
        self.wire, self.sent, self.over = Wire(server.port), 0, False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        one = b"PUB g.flood %d\r\n" % FLOOD_BYTES + bytes(FLOOD_BYTES) + b"\r\n"
        self.wire.socket.settimeout(0.5)
        while not self.over:
            try:
                self.sent += self.wire.socket.send(one * 16)
                # What is left of a message goes whole, or the next one would not be understood.
                while not self.over and (rest := -self.sent % len(one)):
                    self.sent += self.wire.socket.send(one[len(one) - rest :])
            except TimeoutError:
                continue
            except OSError:
                return

    def stop(self):
        self.over = True
        self.thread.join()
        self.wire.close()


def peak_mib(pid):
    found = re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024


def slow(kind, work, count):
    """Each sync takes 200 ms. One publisher alone, then a full window beside a flood, then `kill -9`."""
    call = "fdatasync" if kind == "tarn" else "fsync,fdatasync"
    total, flooded, peaks, fastest = judge.Verdict(cases=count), 0, [], []
    for number in range(count):
        folder = work / f"slow{number}"
        folder.mkdir()
        server, log = Server(kind, folder), folder / "acks.log"
        try:
            wire = server.start(["strace", "-D", "-f", "-o", str(folder / "strace.log"), "-e", f"trace={call}",
                                 "-e", f"inject={call}:delay_enter={int(DELAY_S * 1e6)}"])
            server.create(wire)
            wire.request("$JS.API.STREAM.CREATE.G", {"name": "G", "subjects": ["g.>"], "storage": "file"})
            publisher(server, log, count=12, window=1, patience=5).wait()
            times = [at for _, _, at in judge.read_log(log)[1]]
            fastest.append(min(b - a for a, b in zip(times, times[1:], strict=False)))
            flood = Flood(server)
            flood.thread.start()
            load = publisher(server, log, first=100, count=10**6, seconds=30)
            time.sleep(4 + number % 3)
            peaks.append(peak_mib(server.process.pid))
            server.kill()
            flood.stop()
            flooded += flood.sent
            load.wait()
            total.add(held := judge.hold(server.start(), log))
            total.remarks += held.remarks
        finally:
            server.kill()
    total.remarks.append(
        f"fastest acknowledgement of a lone publisher: {min(fastest) * 1000:.0f} ms; {flooded >> 20:,} MiB taken from a "
        f"publisher that waits for nothing; peak memory {max(peaks):.0f} MiB")
    total.fastest, total.peak = min(fastest), max(peaks)
    return total


def can_turn():
    """Whether an ext4 on a loop device can be made here."""
    return os.path.exists("/dev/loop-control") and SYSFS.is_dir()


def device_of(mount):
    source = subprocess.run(["findmnt", "-no", "SOURCE", str(mount)], check=True, capture_output=True, text=True)
    return pathlib.Path(source.stdout.strip()).name


def healthy_soon(server, wanted):
    """Whether health says so within three seconds."""
    end = time.monotonic() + 3
    while server.healthy() is not wanted and time.monotonic() < end:
        time.sleep(0.05)
    return server.healthy() is wanted


def readonly(kind, work, count):
    """An ext4 meets an error and turns itself read-only while there is load; then it is mounted again."""
    total, codes, going_on, unhealthy, again = judge.Verdict(cases=count), [], [], 0, 0
    late = 0
    for number in range(count):
        folder = work / f"turn{number}"
        mount = folder / "mount"
        mount.mkdir(parents=True)
        image = folder / "image"
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(mount)], check=True)
        server, log = Server(kind, folder, mount / "store"), folder / "acks.log"
        try:
            wire = server.start()
            server.create(wire)
            wire.request("$JS.API.CONSUMER.DURABLE.CREATE.F.c", {"stream_name": "F", "config": {
                "durable_name": "c", "ack_policy": "explicit", "deliver_policy": "all"}})
            publisher(server, log, count=200).wait()
            load = publisher(server, log, first=1000, count=10**6, seconds=3, patience=1)
            time.sleep(0.5 + 0.1 * number)
            (SYSFS / device_of(mount) / "trigger_fs_error").write_text("1")
            turned = time.time()
            load.wait()
            _, acked, refused = judge.read_log(log)
            late += sum(at > turned + 0.1 for _, _, at in acked)
            codes.append(refused[-1][1] if refused else "silence")
            unhealthy += healthy_soon(server, False)
            going_on.append(what_goes_on(server))
            server.kill()
            subprocess.run(["umount", str(mount)], check=True)
            subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(mount)], check=True)
            total.add(held := judge.hold(server.start(), log))
            total.remarks += held.remarks
            before = len(acked)
            publisher(server, log, first=2 * 10**6, count=10, seconds=5).wait()
            again += len(judge.read_log(log)[1]) == before + 10
        finally:
            server.kill()
            subprocess.run(["umount", str(mount)], check=True)
    total.remarks.append(
        f"refused with {', '.join(dict.fromkeys(codes))}; {late} acks after the turn; go on: "
        f"{', '.join(dict.fromkeys(going_on))}; unhealthy in {unhealthy} of {count}; mounted again and restarted, "
        f"{again} of {count} take publishes")
    total.late, total.silent = late, count - unhealthy
    total.held = again == count and "silence" not in codes and all("reads" in one for one in going_on)
    return total


def what_goes_on(server):
    going = []
    try:
        wire = Wire(server.port)
        if wire.request("$JS.API.STREAM.MSG.GET.F", {"seq": 5}).get("message"):
            going.append("reads")
        if consume_and_ack(wire):
            going.append("acks")
    except OSError:
        pass
    return " and ".join(going) or "nothing"
