"""The `nats` command line side by side: the same command, the same exit status and, times and ids masked, the same text.

Usage: python -m tarn_e2e.conformance.cli [--only TEXT] [--verbose]
"""

import argparse
import re
import shlex
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .commands import SYSTEM, USER
from .nats_cli import LISTEN_SECONDS, Nats, masked
from .peers import TWO_ACCOUNTS, Server, commands
from .reasons import CLI_REASONS

# What a server says about itself: its figures are never those of another, only which there are is compared.
FIGURES = re.compile(r"-?\b\d[\d,.]*( (MiB|KiB|GiB|B)\b|%)?")


class Run:
    """One server, its folder, and the command line that talks to it."""

    def __init__(self, command):
        self.command = command
        folder = Path(tempfile.mkdtemp(prefix="conformance-cli-"))
        (folder / "file").write_text("what is in the file\n" * 20)
        self.names = {name: str(folder / name) for name in ("backup", "file", "out")}
        self.nats = Nats(folder)

    def all(self, steps, system):
        with Server(self.command, config=TWO_ACCOUNTS) as server:
            said = [self.step(server, "app", step) for step in steps]
            said += [[(status, FIGURES.sub("#", text)) for status, text in self.step(server, "sys", step)] for step in system]
        return said

    def step(self, server, user, step):
        if isinstance(step, str):
            return [self.finish(self.start(server, user, step))]
        background, foreground = step
        if "WATCHED" in background:
            self.finish(self.start(server, user, "kv add WATCHED"))
        listener = self.start(server, user, background)
        time.sleep(LISTEN_SECONDS)
        front = self.finish(self.start(server, user, foreground))
        if "watch" in background:
            time.sleep(LISTEN_SECONDS)
            listener.terminate()
        return [front, self.finish(listener)]

    def start(self, server, user, text):
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return self.nats.start("--server", server.url, "--user", user, "--password", user, "--timeout", "5s", *shlex.split(text))

    def finish(self, process):
        status, text = self.nats.finish(process)
        return status, masked(text)


def difference(real, ours) -> str:
    """The lines that differ, of both sides."""
    lines = []
    for (real_status, real_text), (our_status, our_text) in zip(real, ours):
        if real_status != our_status:
            lines.append(f"exit status {real_status} | {our_status}")
        left, right = real_text.splitlines(), our_text.splitlines()
        lines += [f"- {line}" for line in left if line not in right]
        lines += [f"+ {line}" for line in right if line not in left]
    return "\n".join(lines)


def reason_of(step: str, difference: str) -> str | None:
    """The reason that explains every line of the difference."""
    lines = difference.splitlines()
    for command, line_pattern, reason in CLI_REASONS:
        if re.search(command, step) and all(re.search(line_pattern, line) for line in lines):
            return reason
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="commands that contain this")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--self", action="store_true", help="the real server against itself: what the masks leave over")
    arguments = parser.parse_args()
    both = commands()
    wanted = [step for step in USER if not arguments.only or arguments.only in str(step)]
    system = [step for step in SYSTEM if not arguments.only or arguments.only in str(step)]
    other = both["nats-server"] if arguments.self else both["tarn"]
    with ThreadPoolExecutor(2) as pool:
        real, ours = pool.map(lambda command: Run(command).all(wanted, system), [both["nats-server"], other])
    same, explained, open_ones = 0, [], []
    for step, left, right in zip([*wanted, *system], real, ours):
        text = difference(left, right)
        if not text:
            same += 1
            continue
        reason = reason_of(str(step), text)
        (explained if reason else open_ones).append((step, text, reason))
    for step, text, reason in [*(explained if arguments.verbose else []), *open_ones]:
        print(f"\n$ nats {step if isinstance(step, str) else ' & nats '.join(step)}{f'  ({reason})' if reason else ''}\n{text}")
    print(f"\n{'commands':>10} {'the same':>10} {'explained':>10} {'different':>10}")
    print(f"{len(real):10} {same:10} {len(explained):10} {len(open_ones):10}")
    for step, _, reason in explained:
        print(f"  nats {step if isinstance(step, str) else step[0]}: {reason}")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
