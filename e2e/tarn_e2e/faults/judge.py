"""Holds what is read back against the publisher's log."""

import dataclasses
import pathlib

from . import wire as protocol
from .publisher import number_of


@dataclasses.dataclass
class Verdict:
    acked: int = 0
    lost: int = 0
    wrong: int = 0
    doubled: int = 0
    gaps: int = 0
    cases: int = 0
    remarks: list = dataclasses.field(default_factory=list)

    def add(self, other):
        for field in ("acked", "lost", "wrong", "doubled", "gaps"):
            setattr(self, field, getattr(self, field) + getattr(other, field))
        return self


def read_log(path):
    """Numbers sent; (number, seq, time) acknowledged; (number, code, time) refused."""
    sent, acked, refused = set(), [], []
    for line in pathlib.Path(path).read_text().splitlines():
        words = line.split()
        if words[0] == "S":
            sent.add(int(words[1]))
        elif words[0] == "A" and len(words) == 4:
            acked.append((int(words[1]), int(words[2]), float(words[3])))
        elif words[0] == "E" and len(words) == 4:
            refused.append((int(words[1]), words[2], float(words[3])))
    return sent, acked, refused


def hold(wire, log, below=1):
    """The stream `F` against the log. Sequences under `below` were purged on purpose."""
    sent, acked, _ = read_log(log)
    acked = [(number, seq) for number, seq, _ in acked if seq >= below]
    verdict = Verdict(acked=len(acked))
    info = wire.request("$JS.API.STREAM.INFO.F")
    if "error" in info:
        verdict.lost = len(acked)
        verdict.remarks.append("the stream is gone")
        return verdict
    last = max([info["state"]["last_seq"], *(seq for _, seq in acked)])
    found = protocol.read_all(wire, "F", below, last)
    numbers = {seq: number_of(data) for seq, data in found.items()}
    verdict.wrong = sum(number is None or number not in sent for number in numbers.values())
    verdict.lost = sum(numbers.get(seq) != number for number, seq in acked)
    # Given twice: one sequence for two acknowledgements, or one record at two sequences.
    good = [number for number in numbers.values() if number is not None]
    verdict.doubled = len(acked) - len({seq for _, seq in acked}) + len(good) - len(set(good))
    acked_at = {seq for _, seq in acked}
    verdict.gaps = sum(seq not in found and seq not in acked_at for seq in range(below, info["state"]["last_seq"] + 1))
    lost = info["state"].get("lost")
    if lost:
        verdict.remarks.append(f"lost in info: {len(lost.get('msgs') or [])}")
    return verdict
