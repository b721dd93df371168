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
    with tarfile.open(path, "w") as tar:
        folders: set[str] = set()
        for source, target, permissions in sorted(entries, key=lambda entry: entry[1]):
            for parent in reversed(Path(target).parents[:-1]):
                if str(parent) not in folders:
                    folders.add(str(parent))
                    mode = 0o1777 if parent.name == "tmp" else 0o755
                    tar.addfile(_info(str(parent), tarfile.DIRTYPE, mode))
            content = source if isinstance(source, bytes) else source.read_bytes()
            info = _info(target, tarfile.REGTYPE, permissions)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with path.open("rb") as written:
        return Layer(path, hashlib.file_digest(written, "sha256").hexdigest())


def _info(target: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(target.lstrip("/"))
    info.type, info.mode = kind, mode
    return info


@dataclass(frozen=True)
class Image:
    """One image: its name with tag, its layers from the bottom up, and OCI's config (Entrypoint, Env, User, ...)."""

    name: str
    layers: Sequence[Layer]
    config: Mapping[str, object]


def archive(images: Sequence[Image], path: Path) -> None:
    """Writes an archive of images; a layer that several share is in it once."""
    with tarfile.open(path, "w") as tar:
        for digest, source in {each.digest: each.path for image in images for each in image.layers}.items():
            tar.add(source, f"blobs/sha256/{digest}")
        references = [_manifest(tar, image) for image in images]
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": references}).encode())
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _manifest(tar: tarfile.TarFile, image: Image) -> dict[str, Any]:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.digest}" for each in image.layers]},
    }
    layers = [
        {"mediaType": f"{_PREFIX}.layer.v1.tar", "digest": f"sha256:{each.digest}", "size": each.path.stat().st_size}
        for each in image.layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_PREFIX}.manifest.v1+json",
        "config": _blob(tar, config) | {"mediaType": f"{_PREFIX}.config.v1+json"},
        "layers": layers,
    }
    names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name.split(":")[-1]}
    return _blob(tar, manifest) | {"mediaType": f"{_PREFIX}.manifest.v1+json", "annotations": names}


def _blob(tar: tarfile.TarFile, content: object) -> dict[str, Any]:
    encoded = json.dumps(content, sort_keys=True).encode()
    digest = hashlib.sha256(encoded).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", encoded)
    return {"digest": f"sha256:{digest}", "size": len(encoded)}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
