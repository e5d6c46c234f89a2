"""A web server on loopback that does what real ones do wrong, and remembers who asked what, when, how many at a time.

The first part of a path says how it behaves, the last is the picture's name. Also a name server, of the same kind.
"""

import asyncio
import io
import socketserver
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

HOLD_SECONDS = 0.03
STALL_SECONDS = 20.0


def picture(name: str, kind: str = "PNG") -> bytes:
    """A picture that is its name's alone."""
    data = io.BytesIO()
    Image.new("RGB", (24, 24), f"#{hash_of(name):06x}").save(data, kind)
    return data.getvalue()


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "big") % 0xFFFFFF


@dataclass(frozen=True)
class Seen:
    """One request. ``beside``: requests under way when it came, itself included."""

    seconds: float
    path: str
    headers: dict[str, str]
    beside: int


class FaultyServer:
    """``robots``: (status, text) of robots.txt. ``host``: its name and port."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.robots: tuple[int, str] = (404, "")
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://{self.host}/{path}"

    @property
    def paths(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(seen.path for seen in self.seen)

    def pictures(self) -> list[Seen]:
        """Requests but for robots.txt."""
        return [seen for seen in self.seen if seen.path != "robots.txt"]

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while first := await reader.read(1):
                if first == b"\x16":  # somebody begins to speak TLS
                    writer.write(b"HTTP/1.1 400 X\r\n\r\n")
                    return
                head = first + await reader.readuntil(b"\r\n\r\n")
                request, *lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                self._under_way += 1
                path = request.split()[1].lstrip("/")
                self.seen.append(Seen(time.monotonic(), path, headers, self._under_way))
                try:
                    if not await self._answer(path, writer):
                        return
                finally:
                    self._under_way -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """Answer; False: the connection ends with it."""
        if path == "robots.txt":
            return await send(writer, self.robots[0], self.robots[1].encode())
        kind, *more = path.partition("?")[0].split("/")
        body = picture(PurePosixPath(path).name)
        behaviour = getattr(self, f"_{kind}", None)
        if behaviour is not None:
            return await behaviour(writer, more, body)
        return await send(writer, 200, body)

    async def _slow(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        await asyncio.sleep(HOLD_SECONDS)
        return await send(writer, 200, body)

    async def _stall(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        await asyncio.sleep(STALL_SECONDS)
        return False

    async def _drip(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
        return True

    async def _cut(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-9])
        return False

    async def _cutchunk(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + body[:5] + b"\r\n")
        return False

    async def _circle(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        return await send(writer, 302, b"", Location=f"/circle/{1 - int(more[0])}")

    async def _hops(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        left = int(more[0])
        return await send(writer, 301, b"", Location=f"/hops/{left - 1}/x.png" if left else "/good/x.png")

    async def _to(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        """Redirects to another port's picture."""
        return await send(writer, 307, b"", Location=f"http://127.0.0.1:{more[0]}/good/{more[1]}")

    async def _elsewhere(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        return await send(writer, 302, b"", Location="file:///etc/passwd")

    async def _status(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        return await send(writer, int(more[0]), b"<html>no</html>")

    async def _first(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        """``/first/STATUS/RETRY_AFTER/name``: refused the first time the path is asked for, then good."""
        path = "/".join(("first", *more))
        if self.paths[path] > 1:
            return await send(writer, 200, body)
        waits = {} if more[1] == "-" else {"Retry-After": more[1].replace("_", " ")}
        return await send(writer, int(more[0]), b"later", **waits)

    async def _html(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        return await send(writer, 200, b"<!doctype html><h1>Sign in</h1>", **{"Content-Type": "image/jpeg"})

    async def _empty(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        return await send(writer, 200, b"")

    async def _declared(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + body)
        await asyncio.sleep(STALL_SECONDS)
        return False

    async def _endless(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + body)
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async def _reset(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.transport.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: RST at close
        writer.transport.abort()
        return False

    async def _garbage(self, writer: asyncio.StreamWriter, more: list[str], body: bytes) -> bool:
        writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        return False


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, **headers: str) -> bool:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)
    await writer.drain()
    return True


class FaultyNameServer:
    """``gone…`` doesn't exist, ``broken…`` gives SERVFAIL, all other names are this machine. ``asked``: names asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        answer = self._answer

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, socket = self.request
                socket.sendto(answer(question), self.client_address)

        self._server = socketserver.UDPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, question: bytes) -> bytes:
        """RFC 1035: the question comes back, behind it for an A question one address."""
        place, labels = 12, []
        while size := question[place]:
            labels.append(question[place + 1 : place + 1 + size].decode())
            place += 1 + size
        asked, kind = question[12 : place + 5], question[place + 1 : place + 3]
        code = {"gone": 3, "broken": 2}.get(labels[0].rstrip("0123456789"), 0)
        found = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if code == 0 and kind == b"\0\1" else b""
        if kind == b"\0\1":
            self.asked.append(labels[0])
        return question[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, bool(found), 0, 0) + asked + found
