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
from collections.abc import Iterator
from pathlib import Path

from controlplane import programs
from devcluster import oci

ROOT = Path(__file__).parents[2]
SOURCES = {"weir": {"operator/weir": "/opt/weir/weir"}, "engines": {"hack/engines": "/opt/weir/engines"}}
"""Image -> folder of the checkout -> where it is in the image. `engines` has everything of `weir` besides."""

REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
USER = "65532:65532"  # nobody in particular, as in distroless images
ENVIRONMENT = {
    "PATH": "/opt/weir/bin:/opt/python/bin:/usr/bin:/bin",
    "PYTHONPATH": "/opt/weir:/opt/packages",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
}
LAUNCHER = "#!/opt/python/bin/python3\nimport sys\n\nfrom weir.cli import main\n\nsys.exit(main())\n"

_UNUSED = frozenset(
    ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "pydoc_data")
)
"""Folders of the standard library that no server needs."""

_Entry = tuple[Path | bytes, str, int]


def build(folder: Path) -> dict[str, Path]:
    """Writes NAME.tar of every image into folder: `weir`, `engines` (tagged weir.dev/NAME:dev) and `pause`."""
    folder.mkdir(parents=True, exist_ok=True)
    python, packages = _python_layer(), _packages_layer()
    environment = ENVIRONMENT | {"LD_LIBRARY_PATH": "/opt/python/lib"}
    config: dict[str, object] = {
        "User": USER,
        "WorkingDir": "/tmp",  # noqa: S108 - the image's own
        "Env": [f"{name}={value}" for name, value in environment.items()],
    }
    with tempfile.TemporaryDirectory() as scratch:
        layers = [python, packages]
        made = {}
        for name, sources in SOURCES.items():
            layers.append(oci.layer(_code(sources), Path(scratch) / f"{name}.layer"))
            entrypoint = ["/opt/weir/bin/weir"] if name == "weir" else ["/opt/python/bin/python3", "-m"]
            made[name] = folder / f"{name}.tar"
            oci.image(f"weir.dev/{name}:dev", layers, config | {"Entrypoint": entrypoint}, made[name])
    return made | {"pause": build_pause(folder)}


def build_pause(folder: Path) -> Path:
    """Writes pause.tar: the one program that every pod needs besides its own."""
    folder.mkdir(parents=True, exist_ok=True)
    pause = programs.find("pause")["pause"]
    with tempfile.TemporaryDirectory() as scratch:
        only = oci.layer([(pause, "/pause", 0o755)], Path(scratch) / "layer")
        oci.image("weir.dev/pause:1", [only], {"Entrypoint": ["/pause"], "User": USER}, folder / "pause.tar")
    return folder / "pause.tar"


def _code(sources: dict[str, str]) -> Iterator[_Entry]:
    for source, target in sources.items():
        yield from _tree(ROOT / source, target)
    if "operator/weir" in sources:
        yield LAUNCHER.encode(), "/opt/weir/bin/weir", 0o755


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
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
        made = oci.layer(entries, Path(scratch.name))
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
    for library in _libraries(extensions):
        loader = library.name.startswith("ld-")
        yield library.resolve(), str(library) if loader else f"/opt/python/lib/{library.name}", 0o755
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        yield bundle, str(bundle), 0o644
    yield b"root:x:0:0::/:/bin/false\nnonroot:x:65532:65532::/tmp:/bin/false\n", "/etc/passwd", 0o644
    yield b"root:x:0:\nnonroot:x:65532:\n", "/etc/group", 0o644
    yield b"hosts: files dns\n", "/etc/nsswitch.conf", 0o644
    yield b"", "/tmp/.keep", 0o644  # noqa: S108


def _libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries that they load, the loader itself among them."""
    answer = subprocess.run(["ldd", *map(str, binaries)], check=True, capture_output=True, text=True).stdout
    return {Path(match) for match in re.findall(r"(?:=> |^\t)(/\S+) \(", answer, re.MULTILINE)}


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
    for entry in _tree(scratch, "/opt/packages"):
        if not entry[1].startswith("/opt/packages/bin/"):
            yield entry
