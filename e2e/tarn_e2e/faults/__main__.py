"""Runs the faults and prints one table. `python -m tarn_e2e.faults --help` says how."""

import argparse
import os
import pathlib
import random
import shutil
import sys
import tempfile

from . import disk, power, process, trouble
from .servers import KINDS

FAULTS = {
    "kill": "`kill -9` under load",
    "sync": "EIO on the Nth sync",
    "full": "64 MiB tmpfs, full",
    "flip": "one bit flipped at rest",
    "power": "power cut, unsynced pages dropped",
    "slow": "200 ms a sync, a flood, `kill -9`",
    "readonly": "ext4 turns read-only",
}
# What a server may take while its disk cannot keep up, in MiB.
PEAK_MIB_MAX = 512


def numbers(text):
    """`1,2,5` or `1-200`."""
    if "-" in text:
        first, last = text.split("-")
        return list(range(int(first), int(last) + 1))
    return [int(n) for n in text.split(",")]


def cannot(fault):
    """Why this machine cannot run the fault; None when it can."""
    if fault in ("full", "power", "readonly") and os.geteuid() != 0:
        return "mounting needs root"
    if fault == "power" and not power.available():
        return "no FUSE here"
    if fault == "readonly" and not trouble.can_turn():
        return "no loop devices or no ext4 here"
    return None


def run(fault, kind, work, options):
    if fault == "kill":
        return process.kills(kind, work, options.kills, options.seed)
    if fault == "sync":
        return process.failing_syncs(kind, work, options.syncs)
    if fault == "full":
        return disk.full(kind, work)
    if fault == "flip":
        return disk.flips(kind, work, options.flips, options.seed)
    if fault == "slow":
        return trouble.slow(kind, work, options.slow)
    if fault == "readonly":
        return trouble.readonly(kind, work, options.turns)
    return power.cuts(kind, work, options.cuts, options.seed)


def broken_promises(fault, verdict):
    """Why Tarn fails the fault; empty when it holds."""
    reasons = []
    if verdict.wrong or verdict.doubled:
        reasons.append("wrong or doubled records")
    if fault == "flip":
        if verdict.worst > 1 or verdict.silent:
            reasons.append("more than one record lost by a bit, or a loss unreported")
    elif verdict.lost:
        reasons.append("acknowledged messages lost")
    if verdict.acked == 0:
        reasons.append("nothing was acknowledged: that is no run")
    if fault == "sync" and (verdict.late or verdict.silent):
        reasons.append("acknowledged after a failed sync, or health is silent")
    if fault == "full" and not verdict.healed:
        reasons.append("a full disk is not survived as promised")
    if fault == "slow" and (verdict.fastest < 0.95 * trouble.DELAY_S or verdict.peak > PEAK_MIB_MAX):
        reasons.append("acknowledged before the sync had ended, or memory is not bounded")
    if fault == "readonly" and (verdict.late or verdict.silent or not verdict.held):
        reasons.append("acknowledged, silent or unreadable on a read-only file system, or not usable after it")
    return reasons


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", default="tarn", help="of tarn,nats,nats-always")
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--syncs", type=numbers, default=[1, 2, 3, 17, 100])
    parser.add_argument("--flips", type=int, default=10)
    parser.add_argument("--cuts", type=int, default=3)
    parser.add_argument("--slow", type=int, default=1)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"faults: seed {options.seed}", flush=True)
    rows, failed = [], []
    for fault in options.faults.split(","):
        for kind in options.servers.split(","):
            if why := cannot(fault):
                rows.append(f"| {FAULTS[fault]} | {KINDS[kind]} | | | | | | | not run: {why} |")
                continue
            work = pathlib.Path(tempfile.mkdtemp(prefix="tarn-faults-"))
            try:
                verdict = run(fault, kind, work, options)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            remarks = list(dict.fromkeys(r for r in verdict.remarks if not r.startswith("lost in info")))
            rows.append(f"| {FAULTS[fault]} | {KINDS[kind]} | {verdict.cases} | {verdict.acked:,} | {verdict.lost:,} | "
                        f"{verdict.wrong} | {verdict.doubled} | {verdict.gaps} | {'; '.join(remarks)} |")
            print(rows[-1], flush=True)
            if kind == "tarn":
                failed += [f"{fault}: {reason}" for reason in broken_promises(fault, verdict)]
    print("\n| fault | server | cases | acknowledged | lost | wrong | doubled | gaps | remarks |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))
    if failed:
        print("faults: tarn broker fails\n  " + "\n  ".join(failed), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
