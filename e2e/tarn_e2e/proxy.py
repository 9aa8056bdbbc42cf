"""A TCP proxy on loopback whose wire can be held, trickled, cut or left half open."""

import asyncio
import contextlib
import dataclasses
import socket
import struct
import threading

PASS, HOLD, TRICKLE = "pass", "hold", "trickle"


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    from_server: asyncio.StreamReader


class Proxy:
    """Listens on `port` and connects each client to `target`. Holds at most one read of each direction in memory."""

    def __init__(self, target):
        self.target = target
        self.modes = {"up": PASS, "down": PASS}
        self.links = set()
        self.abandoned = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.port = self.call(self.listen())

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def listen(self):
        self.changed = asyncio.Condition()
        self.server = await asyncio.start_server(self.link, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    def set(self, up=PASS, down=PASS):
        """What happens to bytes on their way to the server and back, from now on, on every link."""
        async def change():
            async with self.changed:
                self.modes = {"up": up, "down": down}
                self.changed.notify_all()
        self.call(change())

    def cut(self):
        """Resets every link; bytes that are held are lost."""
        async def cut():
            for link in list(self.links):
                self.drop(link)
        self.call(cut())

    def abandon(self):
        """The clients see a reset; the server sees nothing at all, then or later."""
        async def abandon():
            for link in list(self.links):
                self.links.discard(link)
                self.abandoned.append(link)
                reset(link.client)
        self.call(abandon())
        return len(self.abandoned)

    def closed_by_server(self):
        """How many of the abandoned links the server has given up by now."""
        async def count():
            return sum(link.from_server.at_eof() for link in self.abandoned)
        return self.call(count())

    def close(self):
        async def close():
            self.server.close()
            for link in [*self.links, *self.abandoned]:
                self.drop(link)
            mine = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not mine]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.call(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def drop(self, link):
        self.links.discard(link)
        reset(link.client)
        reset(link.server)

    async def link(self, from_client, client):
        try:
            from_server, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            reset(client)
            return
        link = Link(client, server, from_server)
        self.links.add(link)
        # Cancelled when the proxy closes.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self.pump(link, "up", from_client, server), self.pump(link, "down", from_server, client))

    async def pump(self, link, way, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                if link not in self.links:
                    continue
                await self.carry(link, way, data, writer)
        except OSError:
            pass
        if link in self.links:
            self.drop(link)

    async def carry(self, link, way, data, writer):
        at = 0
        while at < len(data):
            async with self.changed:
                await self.changed.wait_for(lambda: self.modes[way] != HOLD or link not in self.links)
            if link not in self.links:
                return
            # In pieces that respect no frame.
            size = 7 if self.modes[way] == TRICKLE else len(data) - at
            writer.write(data[at : at + size])
            await writer.drain()
            at += size
            if self.modes[way] == TRICKLE:
                await asyncio.sleep(0.005)


def reset(writer):
    """Closes with RST, as a machine that lost its state does."""
    if (raw := writer.get_extra_info("socket")) is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
