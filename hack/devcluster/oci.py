"""OCI images as archives that `ctr images import` and `docker load` take, put together without Docker."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PREFIX = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """An uncompressed tar file; equal content gives an equal digest, so a runtime unpacks it once."""

    path: Path
    digest: str


def layer(entries: Iterable[tuple[Path | bytes, str, int]], path: Path) -> Layer:
    """Writes a layer of files: (source or content, absolute path in the image, mode). Owner root, no times."""
    with tarfile.open(path, "w") as archive:
        folders: set[str] = set()
        for source, target, permissions in sorted(entries, key=lambda entry: entry[1]):
            for parent in reversed(Path(target).parents[:-1]):
                if str(parent) not in folders:
                    folders.add(str(parent))
                    mode = 0o1777 if parent.name == "tmp" else 0o755
                    archive.addfile(_info(str(parent), tarfile.DIRTYPE, mode))
            content = source if isinstance(source, bytes) else source.read_bytes()
            info = _info(target, tarfile.REGTYPE, permissions)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with path.open("rb") as written:
        return Layer(path, hashlib.file_digest(written, "sha256").hexdigest())


def _info(target: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(target.lstrip("/"))
    info.type, info.mode = kind, mode
    return info


def image(name: str, layers: Sequence[Layer], config: Mapping[str, object], path: Path) -> None:
    """Writes an archive with one image; config as in OCI's image specification (Entrypoint, Env, User, ...)."""
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.digest}" for each in layers]},
    }
    with tarfile.open(path, "w") as archive:
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_PREFIX}.manifest.v1+json",
            "config": _blob(archive, settings) | {"mediaType": f"{_PREFIX}.config.v1+json"},
            "layers": [
                {
                    "mediaType": f"{_PREFIX}.layer.v1.tar",
                    "digest": f"sha256:{each.digest}",
                    "size": each.path.stat().st_size,
                }
                for each in layers
            ],
        }
        for each in {each.digest: each for each in layers}.values():
            archive.add(each.path, f"blobs/sha256/{each.digest}")
        reference = _blob(archive, manifest) | {
            "mediaType": f"{_PREFIX}.manifest.v1+json",
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit(":", maxsplit=1)[-1],
            },
        }
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [reference]}).encode())
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _blob(archive: tarfile.TarFile, content: object) -> dict[str, Any]:
    encoded = json.dumps(content, sort_keys=True).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    _add(archive, f"blobs/sha256/{digest}", encoded)
    return {"digest": f"sha256:{digest}", "size": len(encoded)}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
