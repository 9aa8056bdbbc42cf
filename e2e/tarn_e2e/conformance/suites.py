"""The suites of other clients, unmodified, against the real nats-server and against Tarn.

The suites start `nats-server` from PATH: for Tarn that is a script that runs `tarn broker "$@"`.
Usage: python -m tarn_e2e.conformance.suites async-nats|nats.py [--fresh] [--only TEXT]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from ..server import BINARY, CACHE
from .reasons import EXCLUDED

# A test binary or a whole Python suite that takes longer hangs.
SUITE_SECONDS = 1500
TEST_SECONDS = 180


def path_with(folder: Path, command: list[str]) -> str:
    """PATH with a `nats-server` in front that runs `command`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nats-server"
    script.write_text("#!/bin/sh\nexec " + " ".join(command) + ' "$@"\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def own_network() -> list[str]:
    """Suites use fixed ports: where it is allowed they get a network of their own."""
    prefix = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
        return prefix
    return []


def run(command, cwd, environment, log: Path, seconds: int) -> None:
    """Runs until it ends or the time is up; what it started goes with it."""
    with log.open("w") as out:
        process = subprocess.Popen([*own_network(), *command], cwd=cwd, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            out.write("\nthe time was up\n")
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
            process.wait()


def async_nats(path: str, folder: Path, only: str) -> dict[str, str]:
    source = CACHE / "src" / "nats.rs"
    target = os.environ.get("TARN_E2E_NATS_RS_TARGET", str(CACHE / "target-nats.rs"))
    environment = {
        **os.environ, "PATH": path, "TMPDIR": str(folder), "CARGO_TARGET_DIR": target,
        "CARGO_PROFILE_TEST_DEBUG": "0", "CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_NET_OFFLINE": "true",
    }
    results = {}
    parts = [["--lib"], *(["--test", file.stem] for file in sorted((source / "async-nats" / "tests").glob("*.rs")))]
    for part in parts:
        name = part[-1].removeprefix("--")
        base = ["cargo", "test", "--quiet", "--package", "async-nats", *part, "--"]
        listed = subprocess.run([*base, "--list", "--format", "terse", *only.split()], cwd=source, env=environment, capture_output=True, text=True).stdout
        tests = re.findall(r"^(\S+): test$", listed, re.M)
        log = folder / f"{name}.log"
        run([*base, "--test-threads=2", "--format", "pretty", *only.split()], source, environment, log, SUITE_SECONDS)
        said = dict(re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", log.read_text(errors="replace"), re.M))
        results |= {f"{name}::{test}": {"ok": "passed", "ignored": "ignored"}.get(said.get(test, ""), "failed") for test in tests}
    return results


def nats_py(path: str, folder: Path, only: str) -> dict[str, str]:
    source = CACHE / "src" / "nats.py"
    report = folder / "report.xml"
    environment = {
        **os.environ, "PATH": path, "TMPDIR": str(folder), "HOME": str(folder), "PYTHONPATH": str(source / "nats" / "src"),
    }
    command = [str(CACHE / "venv-nats.py" / "bin" / "python"), "-m", "pytest", "nats/tests", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", f"--junitxml={report}"]
    if only:
        command += ["-k", only]
    run(command, source, environment, folder / "log", SUITE_SECONDS)
    results = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        if name not in results or results[name] == "passed":
            results[name] = "failed" if kinds & {"failure", "error"} else "ignored" if "skipped" in kinds else "passed"
    return results


def keep_logs(folder: Path, kept: Path) -> None:
    """What the suite said; the servers' folders go."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for file in folder.glob("*log"):
        if file.is_file() and not file.name.startswith("nats-server-"):
            shutil.copy(file, kept / file.name)


SUITES = {"async-nats": async_nats, "nats.py": nats_py}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--fresh", action="store_true", help="run the real server again")
    parser.add_argument("--only", default="", help="tests whose name contains this")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    known = CACHE / f"{arguments.suite}-on-nats-server.json"
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        if arguments.fresh or not known.exists():
            real = suite(path_with(CACHE / "path-nats-server", [str(CACHE / "nats-server")]), Path(folder), "")
            known.write_text(json.dumps(real, indent=1))
        real = json.loads(known.read_text())
        ours = suite(path_with(CACHE / "path-tarn", [str(BINARY), "broker"]), Path(folder), arguments.only)
        keep_logs(Path(folder), CACHE / f"{arguments.suite}-logs")
    return report(arguments.suite, real, ours)


def report(suite: str, real: dict[str, str], ours: dict[str, str]) -> int:
    count = lambda results, outcome: sum(1 for name in ours if results.get(name) == outcome)
    print(f"{suite:14} {'passed':>7} {'failed':>7} {'ignored':>8}")
    for server, results in (("nats-server", real), ("tarn", ours)):
        print(f"{server:14} {count(results, 'passed'):7} {count(results, 'failed'):7} {count(results, 'ignored'):8}")
    unexplained = []
    for name, outcome in ours.items():
        if outcome != "failed":
            continue
        reason = next((reason for pattern, reason in EXCLUDED[suite] if re.search(pattern, name)), None)
        if reason is None and real.get(name) == "failed":
            reason = "fails on nats-server too"
        print(f"  {'excluded' if reason else 'FAILED  '} {name}{f': {reason}' if reason else ''}")
        if reason is None:
            unexplained.append(name)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
