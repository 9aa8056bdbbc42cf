"""The same requests to the real nats-server and to Tarn, volatile fields masked; every difference needs a reason.

Usage: python -m tarn_e2e.conformance.diff [--write PATH] [--group NAME] [--verbose]
"""

import argparse
import base64
import collections
import itertools
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .endpoints import PATHS, answers
from .frames import FRAMES
from .peers import Server, Wire, commands, converse
from .reasons import REASONS
from .requests import GROUPS, SETUPS

ANSWER_SECONDS = 1.2
# What is not gone by then is there to stay: the deletion was refused.
GONE_SECONDS = 1.0
# Lines for one step in the report.
SHOWN = 6
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
# Times that a request named itself are part of the answer.
GIVEN_TIMES = {"2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"}
MASKED_FIELDS = {"server_id", "client_id", "client_ip", "server_name", "port", "go", "nonce", "xkey", "host", "git_commit", "version"}


def masked(value, key=""):
    """`value` without times, identities and generated names."""
    if isinstance(value, dict):
        return {name: masked(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        items = [masked(inner, key) for inner in value]
        # Lists are sorted by name, and generated names are anywhere.
        return sorted(items, key=place) if key == "consumers" else items
    if key in MASKED_FIELDS:
        return f"<{key}>"
    if key in ("last_active", "created", "ts") and isinstance(value, str):
        return "<time>"
    if key in ("first_ts", "last_ts", "time") and value not in GIVEN_TIMES:
        return "<time>"
    if key == "hdrs" and isinstance(value, str):
        return text_of(base64.b64decode(value))
    if isinstance(value, str):
        if key in ("name", "consumers") and re.fullmatch(r"[0-9A-Za-z]{8}", value):
            return "<generated>"
        return text_of(value.encode())
    if key == "pause_remaining" or (key == "active" and value > 0):
        return "<duration>"
    return value


def place(item) -> tuple[bool, str]:
    """Where an item of a list is compared: by name, generated ones at the end, by what they are."""
    name = item.get("name", "") if isinstance(item, dict) else item
    return (name == "<generated>", json.dumps(item, sort_keys=True) if name == "<generated>" else name)


def text_of(data: bytes) -> str:
    text = data.decode(errors="replace")
    text = TIME.sub(lambda found: found[0] if found[0] in GIVEN_TIMES else "<time>", text)
    text = re.sub(r"(\$JS\.SNAPSHOT\.\w+\.\w+\.)\w{22}", r"\1<token>", text)
    text = re.sub(r"(Nats-Stream-Source: .*|Nats-Stream-Identity:) \w{8}\r\n", r"\1 <identity>\r\n", text)
    return re.sub(r"(\$JS\.ACK(?:\.[^.\s]+){5}\.)\d+", r"\1<time>", text)


def answer_of(message):
    subject = "" if message.subject.startswith("_INBOX.") else message.subject
    reply = re.sub(r"(\$JS\.ACK(?:\.[^.]+){5}\.)\d+", r"\1<time>", message.reply)
    try:
        payload = json.loads(message.payload)
        body = masked(payload) if isinstance(payload, dict) else text_of(message.payload)
    except ValueError:
        body = text_of(message.payload)
    answer = {"body": body}
    for name, value in (("subject", subject), ("reply", reply), ("headers", text_of(message.headers))):
        if value:
            answer[name] = value
    return answer


def flat(value, path=""):
    """A tree as (path, leaf) pairs."""
    if isinstance(value, dict) and value:
        return [pair for name, inner in value.items() for pair in flat(inner, f"{path}.{name}")]
    if isinstance(value, list) and value:
        return [pair for index, inner in enumerate(value) for pair in flat(inner, f"{path}[{index}]")]
    return [(path, value)]


class Side:
    """One server's half of a group."""

    def __init__(self, command):
        self.command = command

    def run(self, steps, config, connect):
        answers = []
        with Server(self.command, config=config) as server:
            wire = Wire(server.port, connect)
            acks: dict[str, list[str]] = collections.defaultdict(list)
            for kind, subject, payload, headers in steps:
                deleted = re.search(r"STREAM\.DELETE\.(\w+)$", str(subject))
                if deleted:
                    self.keep_folders(server)
                answers.append([answer_of(message) for message in self.step(wire, acks, kind, subject, payload, headers)])
                if deleted:
                    self.await_gone(server, deleted[1])
            wire.close()
        return answers

    def step(self, wire, acks, kind, subject, payload, headers):
        if kind == "wait":
            time.sleep(subject)
            return []
        if kind == "ack":
            if not acks[subject]:
                return []
            wire.count += 1
            reply = f"{wire.inbox}.{wire.count}"
            wire.publish(acks[subject].pop(0), payload, headers, reply)
            return self.note(acks, subject, wire.take(reply, 0.4))
        if kind == "many":
            found = wire.ask(subject, payload, headers, ANSWER_SECONDS)
            return self.note(acks, subject.rsplit(".", 1)[-1], found)
        return wire.ask_one(subject, payload, headers, ANSWER_SECONDS)

    @staticmethod
    def keep_folders(server):
        """nats-server removes the folder of streams behind the deletion of the last one, also when the next is about to be created."""
        for folder in server.folder.glob("store/jetstream/*/streams"):
            (folder / "kept").touch()

    @staticmethod
    def await_gone(server, stream):
        """nats-server removes a deleted stream's files behind its answer, under a name with a dot before it: while they are there the
        next stream of this name can't be deleted, and one created after that would find what it held."""
        deadline = time.monotonic() + GONE_SECONDS
        patterns = [f"store/jetstream/*/streams/{name}" for name in (stream, f".{stream}")]
        while any(found for pattern in patterns for found in server.folder.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.001)

    @staticmethod
    def note(acks, consumer, found):
        acks[consumer].extend(message.reply for message in found if message.reply.startswith("$JS.ACK."))
        return found


def label(step) -> str:
    kind, subject, payload, headers = step
    if kind == "wait":
        return "wait"
    text = payload.decode(errors="replace")
    text = text if len(text) <= 160 else text[:157] + "..."
    text = f" `{text}`" if text else ""
    if headers:
        shown = ", ".join(f"{name}: {value[:40]}" for name, value in headers.items())
        text += f" [{shown}]"
    return f"{kind} {subject}{text}"


class Difference:
    """Where the two answers to one step part. `step` tells steps with the same words apart."""

    def __init__(self, step: int, where: str, path: str, real, ours):
        self.step, self.where, self.path, self.real, self.ours = step, where, path, real, ours
        self.reason = next((reason for reason in REASONS if reason.explains(self)), None)


def compare(step, where, real, ours):
    left, right = dict(flat(real)), dict(flat(ours))
    paths = [*left, *(path for path in right if path not in left)]
    missing = "<nothing>"
    return [
        Difference(step, where, path, left.get(path, missing), right.get(path, missing))
        for path in paths
        if left.get(path, missing) != right.get(path, missing)
    ]


def labels(steps) -> list[str]:
    """What each step is called; a bare request is told with the last one that set something up."""
    found, setup = [], ""
    for step in steps:
        text = label(step)
        if "CREATE" in text or "UPDATE" in text:
            setup = text
        bare = step[0] == "api" and re.search(r"(INFO|DELETE)\.\S+$", text)
        found.append(f"{text} after {setup}" if bare and setup else text)
    return found


def requests(groups, sides):
    """Runs the groups; gives (group, steps, differences)."""
    for name, group in groups.items():
        steps = list(group())
        with ThreadPoolExecutor(2) as pool:
            real, ours = pool.map(lambda side: side.run(steps, *SETUPS.get(name, ("", {}))), sides)
        answers = zip(labels(steps), real, ours)
        found = [difference for index, (where, left, right) in enumerate(answers) for difference in compare(index, where, left, right)]
        yield name, len(steps), found


def frames(sides):
    def run(side):
        with Server(side.command) as server:
            # One after the other: they share subjects.
            return {name: converse(server.port, script) for name, script in FRAMES.items()}

    with ThreadPoolExecutor(2) as pool:
        real, ours = pool.map(run, sides)
    found = []
    for index, name in enumerate(FRAMES):
        left, right = (frame_text(said[name]) for said in (real, ours))
        found += compare(index, f"frames: {name}", left, right)
    return "core protocol", len(FRAMES), found


def endpoints(sides):
    """The monitoring endpoints: status and fields."""
    with ThreadPoolExecutor(2) as pool:
        real, ours = pool.map(lambda side: answers(side.command), sides)
    found = []
    for index, path in enumerate(PATHS):
        found += compare(index, f"GET {path}", real[path], ours[path])
    return "monitoring", len(PATHS), found


def frame_text(said: bytes):
    text = said.decode(errors="replace")
    lines = text.split("\r\n")
    # The order of fields in INFO doesn't matter; which there are does.
    return [dict.fromkeys(json.loads(line[5:]), "present") if line.startswith("INFO {") else line for line in lines]


def report(results, verbose: bool) -> int:
    unexplained = 0
    print(f"{'group':28} {'requests':>8} {'the same':>8} {'explained':>9} {'unexplained':>11}")
    for name, count, found in results:
        open_ones = [difference for difference in found if difference.reason is None]
        different = {difference.step for difference in found}
        bad = {difference.step for difference in open_ones}
        unexplained += len(bad)
        print(f"{name:28} {count:8} {count - len(different):8} {len(different - bad):9} {len(bad):11}")
    for name, _, found in results:
        for _, step in itertools.groupby(found, lambda difference: difference.step):
            show(name, [difference for difference in step if difference.reason is None or verbose])
    return unexplained


def show(group: str, step) -> None:
    """The differences of one step; the first few of many."""
    if step:
        print(f"\n{group}: {step[0].where}")
    for difference in step[:SHOWN]:
        mark = "" if difference.reason is None else f"  ({difference.reason.text})"
        print(f"  {difference.path}  nats-server {difference.real!r}  tarn {difference.ours!r}{mark}")
    if len(step) > SHOWN:
        print(f"  and {len(step) - SHOWN} more")


def write(path: Path, results) -> None:
    """The page of the docs that lists what differs and why."""
    cases = collections.defaultdict(list)
    total = same = unexplained = 0
    for group, count, found in results:
        total += count
        unexplained += len({difference.step for difference in found if difference.reason is None})
        same += count - len({difference.step for difference in found})
        for difference in found:
            if difference.reason:
                cases[difference.reason.text].append((group, difference))
    lines = [
        "# Differences from nats-server", "",
        "Generated by `just conformance diff`, which sends the same requests to the real nats-server 2.15.2 and to `tarn broker`, masks times,",
        f"identities and generated names, and fails on a difference that has no reason here. Of {total} requests {same} are answered the same,",
        f"{total - same - unexplained} differ for the reasons below, and {unexplained} differ without one: what is still missing.", "",
        "| reason | answers | for instance | nats-server | tarn |", "| --- | --- | --- | --- | --- |",
    ]
    for reason in REASONS:
        if not (found := cases.get(reason.text)):
            continue
        first = found[0][1]
        answers = len({(group, difference.step) for group, difference in found})
        cells = [reason.text, str(answers), first.where, shown(first.real), shown(first.ours)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    path.write_text("\n".join(lines) + "\n")


def shown(value) -> str:
    text = str(value)
    return f"`{text if len(text) <= 80 else text[:77] + '...'}`"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--group")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    both = commands()
    sides = [Side(both["nats-server"]), Side(both["tarn"])]
    groups = {name: group for name, group in GROUPS.items() if arguments.group in (None, name)}
    results = list(requests(groups, sides))
    if arguments.group in (None, "core protocol"):
        results.append(frames(sides))
    if arguments.group in (None, "monitoring"):
        results.append(endpoints(sides))
    if arguments.write:
        write(arguments.write, results)
    return 1 if report(results, arguments.verbose) else 0


if __name__ == "__main__":
    sys.exit(main())
