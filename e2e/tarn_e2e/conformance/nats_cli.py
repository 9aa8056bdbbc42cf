"""The `nats` command line with a folder of its own, and what it says without what varies."""

import json
import os
import re
import subprocess
from pathlib import Path

from ..server import CACHE

COMMAND_SECONDS = 30
# What a subscriber needs until it listens; it says so, but not in all of its forms.
LISTEN_SECONDS = 1.0

MASKS = [
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"nats://127\.0\.0\.1:\d+|127\.0\.0\.1:\d+|\[?::1\]?:\d+"), "<address>"),
    (re.compile(r"/tmp/conformance-[\w/.-]*"), "<folder>"),
    (re.compile(r"\b[NA][A-Z2-7]{55}\b"), "<id>"),
    (re.compile(r"_INBOX\.[A-Za-z0-9.]+"), "<inbox>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "<time>"),
    (re.compile(r"\d\d:\d\d:\d\d(\.\d+)?"), "<time>"),
    (re.compile(r"\b\d[\d,]*(\.\d+)?(ns|µs|us|ms|s|m|h|d)(\d+(\.\d+)?(ns|µs|us|ms|s|m))*\b"), "<duration>"),
    (re.compile(r"-?[\d,]+(\.\d+)? (msgs|MB|MiB|KiB|B|GiB)/sec"), "<rate>"),
    (re.compile(r'("(?:start|now|time|created|ts|first_ts|last_ts|mod_time|last_active|config_load_time|uptime|mem|cores|cpu|pid|gomaxprocs|gomemlimit|rtt|cid|port|max_connections|auth_timeout)": )[^,\n]+'), r"\1<figure>"),
    (re.compile(r"\b[A-Za-z0-9]{22}\b"), "<nuid>"),
    (re.compile(r"[─━═]{3,}"), "<line>"),
    (re.compile(r"Client ID: \d+"), "Client ID: <figure>"),
    (re.compile("[ \u00a0]{2,}|\u00a0"), " "),
    # The last field of an object has none.
    (re.compile(r",$", re.MULTILINE), ""),
]


def masked(text: str) -> str:
    """The text without what varies. An object on one line is told with a field a line."""
    text = "\n".join(spread(line) for line in text.splitlines())
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def spread(line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        return json.dumps(json.loads(line), indent=1, ensure_ascii=False)
    except ValueError:
        return line


class Nats:
    """The command line: contexts, keys and stores are in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        own = {name: str(folder / name.lower()) for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        self.environment = {**os.environ, **own, "HOME": str(folder), "NO_COLOR": "1", "COLUMNS": "200", "TZ": "UTC"}

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [str(CACHE / "nats"), *arguments]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment
        )

    def run(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> tuple[int | str, str]:
        return self.finish(self.start(*arguments), seconds)

    @staticmethod
    def finish(process: subprocess.Popen, seconds: float = COMMAND_SECONDS) -> tuple[int | str, str]:
        """Exit status, or "time-out", and what was said."""
        try:
            text, _ = process.communicate(timeout=seconds)
            return process.returncode, text
        except subprocess.TimeoutExpired:
            process.kill()
            return "time-out", process.communicate()[0]
