"""Runs inside a cluster's network and carries connections into it: `python -m devcluster.relay SOCKET`.

A socket belongs to the network namespace it was made in, so a listener made outside and handed in (over the unix socket, with
the address it leads to) is where the two networks meet. One hop: read here, write there, no more work than that.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from functools import partial
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One end of a carried connection. Reading stops while the other end does not keep up."""

    def __init__(self, other: Side | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        if self.other is not None and self.other.transport is not None and self.other.transport.can_write_eof():
            self.other.transport.write_eof()
        return True  # half-closed: the answer may still be on its way

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            # A reset must arrive as a reset: it is how a test sees that a peer died.
            self.other.transport.abort() if error else self.other.transport.close()
        self.other = None

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()


class Outer(Side):
    """The end that a client connected to. What it says before the other end is there is kept: some milliseconds' worth."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self._early: list[bytes] = []
        self._early_end = False
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        self._early_end = self.other is None
        return super().eof_received()

    async def _connect(self) -> None:
        assert self.transport is not None
        try:
            # It knows this end before it is connected: the other side may be the one that speaks first.
            _, inner = await asyncio.get_running_loop().create_connection(partial(Side, self), *self._target)
        except OSError as error:
            print(f"{self._target}: {error}", file=sys.stderr, flush=True)
            self.transport.abort()
            return
        assert inner.transport is not None
        if self.transport.is_closing():
            inner.transport.abort()
            return
        inner.transport.writelines(self._early)
        if self._early_end:
            inner.transport.write_eof()
        self.other = inner


async def serve(path: str) -> None:
    """Takes listeners until it is killed."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(path)
        control.listen()
        control.setblocking(False)
        servers = []
        while True:
            connection, _ = await loop.sock_accept(control)
            with connection:
                connection.setblocking(True)
                message, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
                if not message:  # somebody only asks whether we are here
                    continue
                target = json.loads(message)
                host, port = target["host"], target["port"]
                listener = socket.socket(fileno=descriptors[0])
                server = await loop.create_server(partial(Outer, host, port), sock=listener, backlog=1024)
                servers.append(server)
                connection.sendall(b"ok")


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
