"""Assembles Weir's images without Docker, from the same files that the Dockerfile copies (SOURCES).

Three layers, so that a change of our code makes only the smallest one new: the running Python, trimmed, with the shared
libraries it loads; the packages of requirements/runtime.txt; our own code. The first two are cached by what they are made of.
"""

from __future__ import annotations

import hashlib
import os
import py_compile
import re
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from controlplane import programs
from devcluster import oci

ROOT = Path(__file__).parents[2]
SOURCES = {
    "weir": {"operator/weir": "/opt/weir/weir", "hack/devcluster/rootfs/weir": "/opt/weir/bin/weir"},
    "engines": {"hack/engines": "/opt/weir/engines"},
}
"""Image -> file or folder of the checkout -> where it is in the image. `engines` has everything of `weir` besides."""

REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
USER = "65532:65532"  # nobody in particular, as in distroless images
ENVIRONMENT = {
    "PATH": "/opt/weir/bin:/opt/python/bin:/usr/bin:/bin",
    "PYTHONPATH": "/opt/weir:/opt/packages",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
    "LD_LIBRARY_PATH": "/opt/python/lib",
}
ENTRYPOINTS = {"weir": ["/opt/weir/bin/weir"], "engines": ["/opt/python/bin/python3", "-m"]}

_UNUSED = frozenset(
    ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "pydoc_data")
)
"""Folders of the standard library that no server needs."""

_Entry = tuple[Path | bytes, str, int]


def build(path: Path) -> Path:
    """Writes an archive of all images: weir.dev/weir:dev and weir.dev/engines:dev."""
    base = [_python_layer(), _packages_layer()]
    config: dict[str, object] = {
        "User": USER,
        "WorkingDir": "/tmp",  # noqa: S108 - the image's own
        "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
    }
    with tempfile.TemporaryDirectory() as scratch:
        made = []
        for name, sources in SOURCES.items():
            base = [*base, oci.layer(_code(sources), Path(scratch) / name)]
            made.append(oci.Image(f"weir.dev/{name}:dev", base, config | {"Entrypoint": ENTRYPOINTS[name]}))
        oci.archive(made, path)
    return path


def build_pause(path: Path) -> Path:
    """Writes an archive with the one program that every pod needs besides its own."""
    pause = programs.find("pause")["pause"]
    with tempfile.TemporaryDirectory() as scratch:
        only = oci.layer([(pause, "/pause", 0o755)], Path(scratch) / "pause")
        oci.archive([oci.Image("weir.dev/pause:1", [only], {"Entrypoint": ["/pause"], "User": USER})], path)
    return path


def _code(sources: dict[str, str]) -> Iterator[_Entry]:
    for source, target in sources.items():
        if (ROOT / source).is_dir():
            yield from _tree(ROOT / source, target)
        else:
            yield ROOT / source, target, 0o755
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    metadata = f"Metadata-Version: 2.1\nName: weir\nVersion: {version}\n"  # what importlib.metadata looks for
    yield metadata.encode(), f"/opt/weir/weir-{version}.dist-info/METADATA", 0o644


def _tree(folder: Path, target: str, without: frozenset[str] = frozenset()) -> Iterator[_Entry]:
    """The files of a folder, with Python compiled: the image is read-only, so nobody could do it later."""
    for current, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - without - {"__pycache__"})
        for name in sorted(files):
            path = Path(current) / name
            inside = f"{target}/{path.relative_to(folder)}"
            yield path, inside, 0o755 if os.access(path, os.X_OK) else 0o644
            if path.suffix == ".py":
                yield _compiled(path, inside), _cache_name(inside), 0o644


def _compiled(path: Path, inside: str) -> bytes:
    with tempfile.NamedTemporaryFile() as target:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), target.name, dfile=inside, doraise=True, invalidation_mode=mode)
        return Path(target.name).read_bytes()


def _cache_name(inside: str) -> str:
    path = Path(inside)
    return f"{path.parent}/__pycache__/{path.stem}.{sys.implementation.cache_tag}.pyc"


def _cached(key: str, entries: Iterator[_Entry]) -> oci.Layer:
    """A layer that is made once for each key; the file's name carries its digest."""
    folder = programs.cache() / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    for path in folder.glob(f"{name}-*.layer"):
        return oci.Layer(path, path.stem.split("-")[1])
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = oci.layer(entries, Path(scratch) / "layer")
        return oci.Layer(made.path.rename(folder / f"{name}-{made.digest}.layer"), made.digest)


def _python_layer() -> oci.Layer:
    return _cached(f"python {sys.version} {sys.base_prefix} {Path(__file__).read_text()}", _python())


def _python() -> Iterator[_Entry]:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary = Path(sys.base_prefix, "bin", version)
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}))
    yield binary.resolve(), "/opt/python/bin/python3", 0o755
    extensions = [binary]
    build_files = f"config-{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_config_var('MULTIARCH')}"
    for entry in _tree(standard, f"/opt/python/lib/{version}", _UNUSED | {build_files}):
        if isinstance(entry[0], Path) and entry[0].suffix == ".so":
            extensions.append(entry[0])
        yield entry
    yield from _libraries(extensions)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        yield bundle, str(bundle), 0o644
    yield b"root:x:0:0::/:/bin/false\nnonroot:x:65532:65532::/tmp:/bin/false\n", "/etc/passwd", 0o644
    yield b"root:x:0:\nnonroot:x:65532:\n", "/etc/group", 0o644
    yield b"hosts: files dns\n", "/etc/nsswitch.conf", 0o644
    yield b"", "/tmp/.keep", 0o644  # noqa: S108


def _libraries(binaries: list[Path]) -> Iterator[_Entry]:
    """The machine's shared libraries that they load, and the loader, which must be where binaries say it is."""
    answer = subprocess.run(["ldd", *map(str, binaries)], check=True, capture_output=True, text=True).stdout
    own = {path.resolve().parent for path in binaries}
    for library in {Path(match) for match in re.findall(r"(?:=> |^\t)(/\S+) \(", answer, re.MULTILINE)}:
        if library.name.startswith("ld-"):
            yield library.resolve(), str(library), 0o755
        elif not any(library.resolve().is_relative_to(folder) for folder in own):
            yield library.resolve(), f"/opt/python/lib/{library.name}", 0o755


def _packages_layer() -> oci.Layer:
    requirements = REQUIREMENTS.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        return _cached(f"packages {sys.version} {requirements} {Path(__file__).read_text()}", _packages(Path(scratch)))


def _packages(scratch: Path) -> Iterator[_Entry]:
    uv = Path(sys.executable).with_name("uv")
    command: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        sys.executable,
        "--target",
        scratch,
        "--require-hashes",
    ]
    subprocess.run([*command, "--requirement", REQUIREMENTS], check=True)
    yield from _tree(scratch, "/opt/packages", frozenset({"bin"}))
    yield from _libraries(list(scratch.rglob("*.so")))
