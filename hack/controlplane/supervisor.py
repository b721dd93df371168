"""The process that all others of a run are children of, so that they end with it, and it with the one who started it.

Runs as `python -m controlplane.supervisor FOLDER`. Takes one JSON command a line on stdin and answers each with one line on
stdout. The end of stdin is the end of the caller, however it died: then everything is killed, the folder removed. Should this
process itself be killed, its children follow: by PR_SET_PDEATHSIG, or, where it is process 1 of a pid namespace, by the kernel.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from controlplane import rundir


class Supervisor:
    """Starts, signals and reaps. Single-threaded, for PR_SET_PDEATHSIG goes by the thread that forked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, int] = {}
        """Name -> pid of what runs."""
        self.ended: dict[str, int] = {}
        """Name -> exit status (negative: the signal) of what ran."""
        self._statuses: dict[int, int] = {}
        """Pid -> exit status of the dead whose names are not looked up yet."""
        self._starting = False
        """A child may die before its pid is noted: until then, nobody dead is forgotten."""

    def reap(self, *_: object) -> None:
        """Collects what has ended; as process 1 also the orphans of others, such as containerd's shims."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._statuses[pid] = os.waitstatus_to_exitcode(status)
            if not self._starting:
                self._settle()

    def _settle(self) -> None:
        """Notes which of ours are among the dead, and forgets the orphans."""
        for name in [name for name, pid in self.processes.items() if pid in self._statuses]:
            self.ended[name] = self._statuses[self.processes.pop(name)]
        self._statuses.clear()

    def start(self, name: str, argv: list[str], environment: dict[str, str]) -> dict[str, Any]:
        """Runs a program, its output appended to logs/NAME.log."""
        if name in self.processes:
            return {"error": f"{name} runs already"}
        self._starting = True
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,
            )
        process.returncode = 0  # reap() waits for it: Popen must not
        self.processes[name] = process.pid
        self.ended.pop(name, None)
        self._starting = False
        self._settle()
        return {"pid": process.pid}

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command, one answer."""
        match command:
            case {"do": "start", "name": name, "argv": argv, "environment": environment}:
                return self.start(name, argv, environment)
            case {"do": "signal", "name": name, "signal": number}:
                if name not in self.processes:
                    return {"error": f"{name} does not run"}
                os.kill(self.processes[name], number)
                return {}
            case {"do": "status"}:
                return {"running": sorted(self.processes), "ended": self.ended}
            case _:
                return {"error": f"not a command: {command}"}

    def end(self) -> None:
        """Kills everything, waits for it, removes the folder."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)  # everything in this pid namespace but process 1
        else:
            for pid in self.processes.values():
                os.kill(pid, signal.SIGKILL)
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        rundir.remove(self.folder)


def main() -> None:
    """Serves until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is the caller's to handle; we go when it goes
    supervisor = Supervisor(Path(sys.argv[1]))
    signal.signal(signal.SIGCHLD, supervisor.reap)
    try:
        for line in sys.stdin:
            print(json.dumps(supervisor.obey(json.loads(line))), flush=True)
    except BrokenPipeError:
        pass  # nobody reads the answer: the caller is gone, which is the end as well
    finally:
        supervisor.end()


if __name__ == "__main__":
    main()
