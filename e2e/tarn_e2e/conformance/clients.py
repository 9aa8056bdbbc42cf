"""Real clients by every door: credentials that `nats auth` has made in operator mode, TLS, WebSocket (compressed too), a service that
lets users in. The same commands against both servers, the same exit status and the same text; `nats-py` over TLS if it is installed.

Usage: python -m tarn_e2e.conformance.clients [--show]
"""

import argparse
import asyncio
import base64
import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..server import CACHE, free_port
from .nats_cli import LISTEN_SECONDS, Nats
from .nats_cli import masked as masked_by_cli
from .peers import Server, commands

# By user: a command, or one that listens and one that then speaks, each with its user.
OPERATED = [
    ("alice", "account info"),
    ("alice", "stream add S --subjects own.> --storage file --max-bytes 1MB --defaults"),
    ("alice", "stream add BIG --subjects big --storage file --max-bytes 1GB --defaults"),
    ("rita", "pub own.rita.x hi"),
    ("rita", "pub own.eve.x hi"),
    ("rita", "stream info S"),
    ("dan", "pub secret.x hi"),
    ("dan", "sub secret.x --count 1 --wait 1s"),
    ("alice", "stream get S 1"),
    ("bob", "account info"),
    (("bob", "sub from.a.> --count 1"), ("alice", "pub events.x news")),
    (("alice", "reply time noon --count 1"), ("bob", "request clock now --replies 1 --raw")),
    ("bob", "request nothing now --replies 1"),
    ("sys", "server request accounts"),
    ("nobody", "rtt"),
]
PLAIN = ["rtt", "account info", "pub a hi", "stream add S --subjects s --defaults", "pub s hi --jetstream", "stream get S 1"]
AUTH = [
    "operator add O",
    "account add A --operator O --defaults --jetstream --js-disk 100MB --js-memory 10MB --js-streams 3 --connections 10",
    "account add B --operator O --defaults",
    "account keys add A reader --operator O --pub-allow own.{{name()}}.> --pub-allow $JS.API.> --sub-allow _INBOX.> --subscriptions 9",
    "user add alice A --operator O --defaults --credential {folder}/alice.creds",
    "user add dan A --operator O --defaults --pub-deny secret.> --sub-deny secret.> --credential {folder}/dan.creds",
    "user add rita A --operator O --key reader --defaults --credential {folder}/rita.creds",
    "user add bob B --operator O --defaults --credential {folder}/bob.creds",
    "user add sys SYSTEM --operator O --defaults --credential {folder}/sys.creds",
    "account exports add events events.> A --operator O",
    "account exports add time time A --operator O --service",
    "account imports add events events.> B --operator O --source {A} --local from.a.>",
    "account imports add time time B --operator O --source {A} --local clock --service",
]


def masked(text: str) -> str:
    """Besides what `nats_cli` masks: what counts up, and lists of accounts, which have no order."""
    text = re.sub(r'"accounts":\[[^\]]*\]', '"accounts":[]', text)
    return masked_by_cli(re.sub(r'(NATS-RPLY-|"(?:seq|rtt)":)\d+', r"\g<1>0", text))


def operator_config(nats: Nats) -> str:
    """Makes an operator with accounts and users; gives the configuration of a server that trusts it."""
    stores = nats.folder / "xdg_data_home" / "nats" / "nsc" / "stores" / "O"
    key = ""
    for line in AUTH:
        words = [word.replace("{folder}", str(nats.folder)).replace("{A}", key) for word in shlex.split(line)]
        status, text = nats.run("auth", *words)
        if status != 0:
            raise RuntimeError(f"nats auth {line}: {text}")
        if line.startswith("account add A"):
            key = re.search(r"\bA[A-Z2-7]{55}\b", text)[0]
    tokens = [path.read_text().strip() for path in sorted(stores.glob("accounts/*/*.jwt"))]
    preload = "\n".join(f"  {subject(token)}: {token}" for token in tokens)
    operator = (stores / "O.jwt").read_text().strip()
    return f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"


def subject(token: str) -> str:
    claims = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]


def operated(command: list[str], nats: Nats, config: str) -> list[tuple[str, int | str, str]]:
    said = []
    with Server(command, config) as server:

        def start(user: str, text: str) -> subprocess.Popen:
            credentials = nats.folder / f"{user}.creds"
            shown = ["--creds", str(credentials)] if credentials.exists() else []
            return nats.start("--server", server.url, *shown, "--timeout", "2s", *shlex.split(text))

        for first, second in OPERATED:
            if isinstance(first, str):
                said.append((f"{first}: {second}", *Nats.finish(start(first, second))))
                continue
            listener = start(*first)
            time.sleep(LISTEN_SECONDS)
            for (user, text), process in ((second, start(*second)), (first, listener)):
                said.append((f"{user}: {text}", *Nats.finish(process)))
    return [(step, status, masked(text)) for step, status, text in said]


def certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *arguments.split(), *names], check=True, capture_output=True)
    return cert, key


def doors(command: list[str], nats: Nats) -> list[tuple[str, int | str, str]]:
    cert, key = certificate(nats.folder)
    tls = f'tls {{ cert_file: "{cert}", key_file: "{key}" }}'
    secure, plain = free_port(), free_port()
    said = []
    with Server(command, f'{tls}\nwebsocket {{ listen: "127.0.0.1:{secure}"\n{tls} }}') as server:
        for url in (f"tls://localhost:{server.port}", f"wss://localhost:{secure}"):
            for text in [*PLAIN, "stream rm S -f"]:
                said.append((f"{url[:3]} {text}", *nats.run("--server", url, "--tlsca", str(cert), *shlex.split(text))))
        said.append(("tls without the certificate", *nats.run("--server", f"tls://localhost:{server.port}", "rtt")))
        said.append(("nats-py over tls", 0, asyncio.run(with_nats_py(server.port, cert))))
    with Server(command, f'websocket {{ listen: "127.0.0.1:{plain}", no_tls: true }}') as server:
        for text in PLAIN:
            said.append((f"ws {text}", *nats.run("--server", f"ws://127.0.0.1:{plain}", *shlex.split(text))))
    return [(step, status, masked(re.sub(r"(localhost|127\.0\.0\.1):\d+", "<address>", text))) for step, status, text in said]


async def with_nats_py(port: int, cert: Path) -> str:
    """What a message says that went there and back."""
    try:
        import nats
    except ImportError:
        return "not installed"
    context = ssl.create_default_context(cafile=str(cert))
    client = await nats.connect(f"tls://localhost:{port}", tls=context, tls_hostname="localhost")
    subscription = await client.subscribe("there")
    await client.publish("there", b"and back")
    message = await subscription.next_msg(5)
    await client.close()
    return message.data.decode()


def witnessed(command: list[str]) -> list[tuple[str, int | str, str]]:
    """What Python's clients see of a callout and of compression."""
    seed, issuer = issuer_key()
    accounts = """accounts {
      $SYS: { users: [{user: sys, password: sys}] }
      AUTH: { users: [{user: auth, password: auth}] }
      FOO: { users: [{user: foo, password: foo}] }
      BAR: {}
    }"""
    callout = f"authorization {{ timeout: 1, auth_callout {{ issuer: {issuer}, account: AUTH, auth_users: [auth] }} }}"
    with Server(command, f"{accounts}\n{callout}") as server:
        said = witness("callouts", str(server.port), seed)
    port = free_port()
    with Server(command, f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: true }}'):
        said += witness("deflate", str(port))
    return [(step, 0, text) for step, text in said]


def in_venv(*arguments: str) -> str:
    """Runs Python where nats.py's suite has its clients."""
    source = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{source}:{CACHE / 'src' / 'nats.py' / 'nats' / 'src'}"}
    python = CACHE / "venv-nats.py" / "bin" / "python"
    ran = subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode != 0:
        raise RuntimeError(ran.stderr)
    return ran.stdout


def witness(*arguments: str) -> list[tuple[str, str]]:
    return [(step, text) for step, text in json.loads(in_venv("-m", "tarn_e2e.conformance.witness", *arguments))]


def issuer_key() -> tuple[str, str]:
    """Seed and public key of an account key that is made for this run."""
    code = "import os, nkeys; seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT); key = nkeys.from_seed(seed); " \
        "print(bytes(seed).decode(), bytes(key.public_key).decode())"
    seed, issuer = in_venv("-c", code).split()
    return seed, issuer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print what the real server said")
    show = parser.parse_args().show
    both = commands()
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        nats = Nats(Path(folder))
        config = operator_config(nats)
        real, ours = ([*operated(command, nats, config), *doors(command, nats), *witnessed(command)] for command in both.values())
    failed = 0
    for left, right in zip(real, ours):
        if show:
            print(f"\n$ {left[0]}\n{left[2]}\n({left[1]})")
        if left != right:
            failed += 1
            print(f"\n-- {left[0]}: exit status {left[1]} | {right[1]}\n{left[2]}\n-- against\n{right[2]}")
    print(f"clients: {len(real) - failed} of {len(real)} the same")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
