"""Runs a stand-in as a process of its own, for tests and benchmarks: started, waited for, and gone with the `with` block."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

_LISTENING = re.compile(r"on [\d.]+:(\d+)$", re.MULTILINE)
_HACK = Path(__file__).parents[1]


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """A test run that is killed leaves nothing behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Stub:
    """`python -m MODULE ARGS` on a loopback address; the kernel picks the port unless one is given.

    with Stub("engines.vllm", "--model=m", "--max-num-seqs=4") as engine: ... engine.url ...
    """

    def __init__(
        self, module: str, *arguments: str, host: str = "127.0.0.1", port: int = 0, ready_within: float = 20.0
    ) -> None:
        self._command = [sys.executable, "-m", module, *arguments, f"--host={host}", f"--port={port}"]
        self.host = host
        self._ready_within = ready_within
        self._log = tempfile.NamedTemporaryFile("w+", prefix=f"{module}-", suffix=".log", delete=False)  # noqa: SIM115
        self.process: subprocess.Popen[str] | None = None
        self.port = port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """All it has written so far."""
        return Path(self._log.name).read_text()

    def start(self) -> "Stub":
        """Starts it, and returns without waiting."""
        path = os.pathsep.join([str(_HACK), str(_HACK.parent / "operator")])
        environment = {**os.environ, "PYTHONPATH": path}
        self.process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, text=True, env=environment
        )
        return self

    def wait_ready(self) -> "Stub":
        """Waits until it listens. Raises RuntimeError with its log if it ends or takes too long."""
        deadline = time.monotonic() + self._ready_within
        while time.monotonic() < deadline:
            found = _LISTENING.search(self.log)
            if found:
                self.port = int(found[1])
                return self
            if self._running().poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError(f"{' '.join(self._command)} did not listen (exit {self._running().poll()}):\n{self.log}")

    def signal(self, number: int) -> None:
        """Sends SIGTERM, SIGSTOP, SIGCONT, SIGKILL ..."""
        self._running().send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        return self._running().wait(seconds)

    def __enter__(self) -> "Stub":
        try:
            return self.start().wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kills it if need be, and removes its log."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            raise RuntimeError("not started")
        return self.process
