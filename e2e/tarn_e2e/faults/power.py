"""A power cut: the store lies on a FUSE file system of our own, which forgets all bytes that were never synced.

Names, renames and deletions are kept as if each were durable at once, so only data is at stake: a lenient disk.
"""

import os
import random
import subprocess
import sys
import time

from . import judge
from .servers import Server, publisher


def available():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return True


class Disk:
    """The file system, in a process of its own; told over standard input to cut."""

    def __init__(self, mount):
        mount.mkdir()
        self.mount = mount
        self.process = subprocess.Popen([sys.executable, "-m", "tarn_e2e.faults.forgetful", str(mount)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "mounted\n", "the file system did not mount"

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def cut(self):
        """From here on nothing is read or written; returns how many bytes were forgotten."""
        self.say("cut")
        return int(self.process.stdout.readline())

    def close(self):
        subprocess.run(["umount", "-l", str(self.mount)], check=False)
        self.process.kill()
        self.process.wait()


def cuts(kind, work, count, seed):
    pick = random.Random(seed)
    total = judge.Verdict(cases=count)
    forgotten = 0
    for number in range(count):
        folder = work / f"cut{number}"
        folder.mkdir()
        disk = Disk(folder / "disk")
        server, log = Server(kind, folder, folder / "disk" / "store"), folder / "acks.log"
        try:
            wire = server.start()
            server.create(wire)
            wire.close()
            load = publisher(server, log, count=100_000)
            time.sleep(pick.uniform(0.4, 1.2))
            forgotten += disk.cut()
            server.process.kill()
            load.wait()
            disk.say("on")
            server.kill()
            total.add(held := judge.hold(server.start(), log))
            total.remarks += held.remarks
        finally:
            server.kill()
            disk.close()
    total.remarks.append(f"{forgotten:,} unsynced bytes dropped")
    return total
