"""The caller's side of a supervisor: a folder, and the processes that live in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from controlplane import rundir

PACKAGES = Path(__file__).parents[1]


class RunError(RuntimeError):
    """A program of the run ended or did not become ready; the message holds the end of its log."""


class Run:
    """Processes under a supervisor. Leaves nothing: neither after stop(), nor after any end of this process."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        """prefix: what the supervisor is started by, such as `unshare --pid --fork --kill-child`."""
        self._prefix = prefix
        self._turn = threading.Lock()
        self._supervisor: subprocess.Popen[str] | None = None
        self.folder = Path()

    def begin(self) -> Self:
        """Makes the folder and starts the supervisor."""
        self.folder, lock = rundir.create()
        (self.folder / "logs").mkdir()
        try:
            self._supervisor = subprocess.Popen(
                [*self._prefix, sys.executable, "-P", "-m", "controlplane.supervisor", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[lock],
                env=os.environ | {"PYTHONPATH": str(PACKAGES)},
                start_new_session=True,  # a Ctrl-C reaches us, and through us them, in order
            )
        finally:
            os.close(lock)
        self.status()
        return self

    def stop(self) -> None:
        """Ends everything and waits for it."""
        if self._supervisor is not None:
            # Closing stdin is the word to end; communicate() would write to a pipe that is closed already.
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.close()
            self._supervisor.wait(timeout=60)
            assert self._supervisor.stdout is not None
            self._supervisor.stdout.close()
            self._supervisor = None

    @property
    def pid(self) -> int:
        """The supervisor, or what it was started by, as seen from here."""
        assert self._supervisor is not None, "the run has not begun"
        return self._supervisor.pid

    def _ask(self, **command: object) -> dict[str, Any]:
        assert self._supervisor is not None, "the run has not begun"
        assert self._supervisor.stdin is not None
        assert self._supervisor.stdout is not None
        with self._turn:
            self._supervisor.stdin.write(json.dumps(command) + "\n")
            self._supervisor.stdin.flush()
            line = self._supervisor.stdout.readline()
        if not line:
            raise RunError(f"the supervisor of {self.folder} is gone (status {self._supervisor.poll()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunError(answer["error"])
        return answer

    def start(self, name: str, argv: Sequence[object], environment: Mapping[str, str] | None = None) -> int:
        """Starts a program under a name; its output goes to logs/NAME.log. Returns its pid as its supervisor sees it."""
        answer = self._ask(
            do="start", name=name, argv=[str(part) for part in argv], environment=dict(environment or {})
        )
        pid: int = answer["pid"]
        return pid

    def finish(self, name: str, argv: Sequence[object], timeout: float = 60) -> None:
        """Runs a program to its end. Raises RunError where it fails."""
        self.start(name, argv)
        self.wait(f"{name} to end", lambda: name in self.status()["ended"], timeout=timeout)
        if status := self.status()["ended"][name]:
            raise RunError(f"{name} failed ({status}): {self.log_tail(name)}")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a program that runs."""
        self._ask(do="signal", name=name, signal=int(number))

    def kill(self, name: str) -> None:
        """Kills a program and waits until it is gone."""
        self.signal(name, signal.SIGKILL)
        self.wait(f"{name} to end", lambda: name not in self.status()["running"], timeout=10)

    def status(self) -> dict[str, Any]:
        """`running`: names; `ended`: name -> exit status."""
        return self._ask(do="status")

    def wait(self, what: str, ready: Callable[[], bool], *, needs: str | None = None, timeout: float = 60) -> None:
        """Polls until ready() holds. Raises RunError after timeout seconds, or as soon as the program `needs` has ended."""
        deadline = time.monotonic() + timeout
        while not ready():
            if needs is not None and needs not in self.status()["running"]:
                raise RunError(f"{needs} ended while waiting for {what}: {self.log_tail(needs)}")
            if time.monotonic() > deadline:
                raise RunError(f"waited {timeout:.0f} s for {what}" + (f": {self.log_tail(needs)}" if needs else ""))
            time.sleep(0.02)

    def log_tail(self, name: str, characters: int = 2000) -> str:
        """The end of a program's log."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")[-characters:]
