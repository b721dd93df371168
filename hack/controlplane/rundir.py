"""Folders of running things, which outlive neither their owner nor, for long, its violent end.

The owner holds a file lock on its folder. The kernel drops the lock with the process, whatever ended it, so a folder without
a lock is a leftover and the next start removes it (with the cgroups that carry its name). Process ids are never compared:
they come again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "weir-run-"


def create() -> tuple[Path, int]:
    """A fresh folder and the locked file descriptor that keeps it; the folder is kept while any copy of it is open."""
    with _guard():
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        (folder / "lock").touch()
        return folder, _lock(folder)


@contextmanager
def _guard() -> Iterator[None]:
    """One at a time: a folder that was made and is not locked yet must not be taken for a leftover."""
    with (Path(tempfile.gettempdir()) / f"weir-runs-of-{os.getuid()}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            descriptor = _lock(folder)
        except BlockingIOError:
            continue  # alive
        except FileNotFoundError:
            with suppress(OSError):  # in the last moment of its removal, by somebody who may have been killed in it
                folder.rmdir()
            continue
        try:
            remove(folder)
        finally:
            os.close(descriptor)


def remove(folder: Path) -> None:
    """Removes a folder, the mounts below it that are visible here, and the cgroups that carry its name."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([path for path in mounts if path.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", mount], check=True)
    for hierarchy in Path("/sys/fs/cgroup").glob(f"*/{folder.name}"):
        remove_cgroup(hierarchy)
    remove_cgroup(Path("/sys/fs/cgroup") / folder.name)  # the unified hierarchy
    for entry in folder.iterdir():
        if entry.name != "lock":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    # Last of all: without it the folder would be anybody's.
    (folder / "lock").unlink()
    with suppress(FileNotFoundError):
        folder.rmdir()


def remove_cgroup(top: Path, timeout: float = 5) -> None:
    """Removes a cgroup with all below it, innermost first; waits (seconds) for processes that are dying just now."""
    deadline = time.monotonic() + timeout
    while top.is_dir():
        try:
            for folder, _, _ in os.walk(top, topdown=False):
                Path(folder).rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
