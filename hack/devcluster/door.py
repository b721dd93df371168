"""The way in from the machine: listeners on 127.0.0.1 that a relay inside carries to addresses of the cluster."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from controlplane.run import PACKAGES, Run


class Door:
    """Opens ways into a cluster's network. They stay open as long as it runs."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open: dict[tuple[str, int], int] = {}

    @property
    def _socket(self) -> Path:
        return self._run.folder / "door.sock"

    def start(self) -> None:
        """Starts the relay and waits for it."""
        argv = [sys.executable, "-P", "-m", "devcluster.relay", self._socket]
        self._run.start("door", argv, {"PYTHONPATH": str(PACKAGES)})
        self._run.wait("the door", self._answers, needs="door")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self._socket)) == 0

    def open(self, host: str, port: int) -> int:
        """The port on 127.0.0.1 that leads to an address inside; the same one for the same address."""
        if (host, port) not in self._open:
            with socket.socket() as listener, socket.socket(socket.AF_UNIX) as relay:
                listener.bind(("127.0.0.1", 0))
                listener.listen(1024)
                relay.settimeout(10)
                relay.connect(str(self._socket))
                socket.send_fds(relay, [json.dumps({"host": host, "port": port}).encode()], [listener.fileno()])
                assert relay.recv(2) == b"ok", self._run.log_tail("door")
                self._open[host, port] = listener.getsockname()[1]
        return self._open[host, port]
