"""What operators watch a server with: prometheus-nats-exporter, nats-top, and KEDA's question, on both servers.

The exporter's metrics have to be the same by name and labels, JetStream's by value too; nats-top's page with figures masked.
Usage: python -m tarn_e2e.conformance.tools
"""

import json
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from ..server import CACHE, free_port
from .peers import TWO_ACCOUNTS, Server, Wire, commands

EXPORTER_SECONDS = 15.0
EVERYTHING = [
    "-varz", "-connz_detailed", "-subz", "-routez", "-leafz", "-gatewayz", "-healthz", "-healthz_js_enabled_only", "-accstatz",
    "-accountz", "-jsz=all",
]
# Metrics of the exporter's own process.
OWN = ("go_", "process_", "promhttp_")
# JetStream's figures that are the machine's or the time's.
VARYING = re.compile(r"max_memory|max_storage|_seconds$")
# Metrics that one side alone has, and why.
EXPLAINED = {
    "gnatsd_varz_http_req_stats": "which endpoints were asked before the others depends on the exporter",
}
MESSAGES, TAKEN = 40, 3


def metrics(server) -> dict[tuple, list[str]]:
    port = free_port()
    command = [str(CACHE / "prometheus-nats-exporter"), "-addr", "127.0.0.1", "-port", str(port), *EVERYTHING, f"http://127.0.0.1:{server.http_port}"]
    exporter = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + EXPORTER_SECONDS
        text = ""
        while "jetstream_stream_total_messages" not in text and time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
            except OSError:
                continue
    finally:
        exporter.terminate()
        exporter.wait()
    found: dict[tuple, list[str]] = {}
    for line in text.splitlines():
        parts = re.match(r"([a-zA-Z_:]\w*)(?:\{(.*)\})? (\S+)$", line)
        if parts and not line.startswith(("#", *OWN)):
            labels = tuple(sorted(re.findall(r'(\w+)="', parts[2] or "")))
            found.setdefault((parts[1], labels), []).append(parts[3])
    return found


def top(server) -> str:
    command = [str(CACHE / "nats-top"), "-s", "127.0.0.1", "-m", str(server.http_port), "-o", "/dev/stdout", "-l", ","]
    text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.\d]* \+0000 UTC|127\.0\.0\.1:\d+", "<masked>", text)
    text = re.sub(r",\d+[smh](?=,<masked>)", ",<masked>", text)
    return re.sub(r"(uptime: |CPU:,|Memory:,|<masked>,)[\w.%]+", r"\1<masked>", text)


def lag(server, wire) -> list[str]:
    """KEDA's question after each message: the lag has to be true at once. Gives what was not."""
    wrong = []
    for count in range(1, MESSAGES + 1):
        wire.ask("s.1", b"x", None, 2.0)
        url = f"http://127.0.0.1:{server.http_port}/jsz?acc=APP&consumers=true&config=true"
        answer = json.loads(urllib.request.urlopen(url, timeout=5).read())
        consumer = answer["account_details"][0]["stream_detail"][0]["consumer_detail"][0]
        told = (consumer["num_pending"], consumer["num_ack_pending"])
        if told != (count, 0):
            wrong.append(f"{count} messages wait, told: {told}")
    return wrong


def look(command):
    with Server(command, config=TWO_ACCOUNTS, http=True) as server:
        wire = Wire(server.port, {"name": "n"})
        wire.ask("$JS.API.STREAM.CREATE.S", b'{"name": "S", "subjects": ["s.>"]}', None, 2.0)
        wire.ask("$JS.API.CONSUMER.CREATE.S.C", b'{"stream_name": "S", "config": {"durable_name": "C", "ack_policy": "explicit"}}', None, 2.0)
        wrong = lag(server, wire)
        wire.ask("$JS.API.CONSUMER.MSG.NEXT.S.C", str(TAKEN).encode(), None, 2.0)
        found = metrics(server), top(server), wrong
        wire.close()
        return found


def main() -> int:
    both = commands()
    with ThreadPoolExecutor(2) as pool:
        (real, real_top, _), (ours, our_top, wrong) = pool.map(look, [both["nats-server"], both["tarn"]])
    bad = [f"lag: {line}" for line in wrong]
    for key in sorted({*real, *ours}):
        name, labels = key
        if key not in ours or key not in real:
            if not name.startswith(tuple(EXPLAINED)):
                bad.append(f"{name} {list(labels)}: only {'nats-server' if key in real else 'tarn'} has it")
        elif name.startswith("jetstream_") and not VARYING.search(name) and sorted(real[key]) != sorted(ours[key]):
            bad.append(f"{name}: nats-server {real[key]}, tarn {ours[key]}")
    if real_top != our_top:
        bad.append(f"nats-top\n- {real_top}\n+ {our_top}")
    print("\n".join(bad))
    print(f"exporter: {len(real)} metrics of nats-server, {len(ours)} of tarn; KEDA: {MESSAGES - len(wrong)} of {MESSAGES} answers true at once; {len(bad)} differences")
    for name, reason in EXPLAINED.items():
        print(f"  {name}: {reason}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
