"""What clients of Python see: users that a service lets in (`auth_callout`), and compressed WebSocket messages.

Runs in the environment of nats.py's suite, which has `nkeys` and `aiohttp`; `clients` starts it for each server.
Usage: python -m tarn_e2e.conformance.witness callouts PORT SEED | deflate PORT. Prints a list of [step, text] as JSON.
"""

import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
import time
import zlib

import aiohttp
import nats
import nkeys

ASKED = "$SYS.REQ.USER.AUTH"
PATIENCE_SECONDS = 10
TOLD_SECONDS = 2
# Names of users, which say what the service does with them.
NAMES = [
    "good", "bar", "own", "named", "foo", "sys", "empty", "junk", "nowhere", "no account", "forged", "other user", "other answer",
    "other server", "other signer", "bare token", "both", "error", "nothing", "expired answer", "expired", "websocket", "silent",
]


def new_key(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def public(key: nkeys.KeyPair) -> str:
    text = key.public_key
    return text.decode() if isinstance(text, bytes | bytearray) else text


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def signed(key: nkeys.KeyPair, subject: str, body: dict, name: str = "", **more) -> str:
    """A token of version 2 that says so about `subject`."""
    claims = {"jti": "x", "iat": int(time.time()), "iss": public(key), "name": name, "sub": subject, "nats": {**body, "version": 2}, **more}
    text = encoded(b'{"typ":"JWT","alg":"ed25519-nkey"}') + "." + encoded(json.dumps(claims).encode())
    return text + "." + encoded(key.sign(text.encode()))


def judged(question: dict, issuer: nkeys.KeyPair, stranger: nkeys.KeyPair) -> str | None:
    """What the service answers to a question; none: nothing."""
    asked = question["nats"]
    name, user, server = asked["connect_opts"].get("user", ""), asked["user_nkey"], asked["server_id"]["id"]
    past = int(time.time()) - 5

    def token(key=issuer, subject=user, account="FOO", called="", body=None, **more):
        return signed(key, subject, {"type": "user", "subs": -1, "data": -1, "payload": -1, **(body or {})}, called, aud=account, **more)

    def answer(body, key=issuer, subject=user, audience=server, **more):
        return signed(key, subject, {"type": "authorization_response", **body}, aud=audience, **more)

    answers = {
        "silent": lambda: None, "empty": lambda: "", "junk": lambda: "eyJ.x.y", "bare token": token,
        "bar": lambda: answer({"jwt": token(account="BAR")}), "own": lambda: answer({"jwt": token(account="AUTH")}),
        "nowhere": lambda: answer({"jwt": token(account="NOWHERE")}), "no account": lambda: answer({"jwt": token(account="")}),
        "named": lambda: answer({"jwt": token(called="bob")}), "forged": lambda: answer({"jwt": token(stranger)}),
        "other user": lambda: answer({"jwt": token(subject=public(new_key(nkeys.PREFIX_BYTE_USER)))}),
        "other answer": lambda: answer({"jwt": token()}, subject=public(new_key(nkeys.PREFIX_BYTE_USER))),
        "other server": lambda: answer({"jwt": token()}, audience=public(new_key(nkeys.PREFIX_BYTE_SERVER))),
        "other signer": lambda: answer({"jwt": token()}, stranger), "both": lambda: answer({"jwt": token(), "error": "x"}),
        "error": lambda: answer({"error": "no"}), "nothing": lambda: answer({}), "expired answer": lambda: answer({"jwt": token()}, exp=past),
        "expired": lambda: answer({"jwt": token(exp=past)}),
        "websocket": lambda: answer({"jwt": token(body={"allowed_connection_types": ["WEBSOCKET"]})}),
    }
    return answers.get(name, lambda: answer({"jwt": token()}))()


async def say_nothing(_: Exception) -> None:
    pass


async def callouts(port: int, seed: str) -> list[tuple[str, str]]:
    issuer, stranger = nkeys.from_seed(seed.encode()), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    url, said = f"nats://127.0.0.1:{port}", []
    service = await nats.connect(url, user="auth", password="auth", error_cb=say_nothing)
    refused: asyncio.Queue = asyncio.Queue()

    async def on_question(message) -> None:
        claims = message.data.decode().split(".")[1]
        answer = judged(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))), issuer, stranger)
        if answer is not None:
            await message.respond(answer.encode())

    async def on_refusal(message) -> None:
        event = json.loads(message.data)
        client = {name: event["client"].get(name) for name in ("acc", "name_tag", "user", "kind", "client_type", "name")}
        refused.put_nowait(json.dumps([message.subject, event["type"], client]))

    await service.subscribe(ASKED, cb=on_question)
    await service.subscribe("$SYS.ACCOUNT.CLIENT.AUTH.ERR", cb=on_refusal)
    await service.flush()
    for name in NAMES:
        try:
            client = await nats.connect(url, user=name, password=name, name="witness", allow_reconnect=False, error_cb=say_nothing)
        except Exception as error:  # noqa: BLE001: the client wraps what it is told in many ways
            try:
                event = await asyncio.wait_for(refused.get(), TOLD_SECONDS)
            except asyncio.TimeoutError:
                event = "and nobody is told"
            said.append((f"callout: {name}", f"refused: {'Authorization Violation' in str(error)} {event}"))
            continue
        data = json.loads((await client.request("$SYS.REQ.USER.INFO", b"")).data)["data"]
        said.append((f"callout: {name}", json.dumps({name: data.get(name) for name in ("user", "account", "permissions")}, sort_keys=True)))
        await client.close()
    await service.close()
    return said


def payloads() -> dict[str, bytes]:
    random = hashlib.shake_256(b"payload").digest(100_000)
    return {"small": b"hi", "empty": b"", "compressible": b"abc" * 100_000, "random": random}


async def deflate(port: int) -> list[tuple[str, str]]:
    url, said = f"ws://127.0.0.1:{port}", []
    async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15, max_msg_size=0) as ws:
        said.append(("deflate: agreed", str(ws.compress > 0)))
        for name, payload in payloads().items():
            text = b'CONNECT {"verbose":false,"headers":true}\r\nSUB there 1\r\nPUB there %d\r\n%s\r\nUNSUB 1\r\nPING\r\n'
            await ws.send_bytes(text % (len(payload), payload))
            heard = b""
            while not heard.endswith(b"PONG\r\n"):
                heard += (await asyncio.wait_for(ws.receive_bytes(), PATIENCE_SECONDS))
            wanted = b"MSG there 1 %d\r\n%s\r\n" % (len(payload), payload)
            said.append((f"deflate: {name}", f"came back: {wanted in heard}"))
    connect = aiohttp.ClientSession.ws_connect
    aiohttp.ClientSession.ws_connect = lambda self, *args, **named: connect(self, *args, **named, compress=15)
    client = await nats.connect(url, error_cb=say_nothing)
    subscription = await client.subscribe("there")
    for name, payload in payloads().items():
        await client.publish("there", payload, headers={"crc": str(zlib.crc32(payload))})
        message = await subscription.next_msg(PATIENCE_SECONDS)
        said.append((f"deflate: {name} with nats-py", f"{message.data == payload} {message.headers}"))
    await client.close()
    return said


def main() -> int:
    logging.disable(logging.CRITICAL)
    what, port, *rest = sys.argv[1:]
    print(json.dumps(asyncio.run({"callouts": callouts, "deflate": deflate}[what](int(port), *rest))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
