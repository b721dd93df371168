"""Runs the real engine as a process of its own: started, waited for, and gone, with its children, at the end of the `with` block."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from real.install import environment

START_SECONDS = 600.0  # 25-70 s on two idle cores; installations and builds may run beside it


class RealEngine:
    """`vllm serve` of SmolLM2-135M-Instruct on loopback. The first one installs it."""

    def __init__(self, *arguments: str) -> None:
        self._environment = environment()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._command = [*self._environment.command(), "--host=127.0.0.1", f"--port={self.port}", *arguments]
        self._log = tempfile.NamedTemporaryFile("w+", prefix="vllm-", suffix=".log", delete=False)  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self.host = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def signal(self, number: int) -> None:
        """To vLLM's API server, as the kubelet would."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process.wait(seconds)

    def __enter__(self) -> "RealEngine":
        variables = {**os.environ, **self._environment.variables()}
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            self._wait_healthy()
        except BaseException:
            self._stop()
            raise
        return self

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.25)
        raise RuntimeError(f"vLLM did not become healthy:\n{self.log[-4000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # all of them may be gone already
                os.killpg(self._process.pid, signal.SIGKILL)  # the engine core and its workers are in its session
            self._process.wait()
        self._log.close()
        Path(self._log.name).unlink(missing_ok=True)
