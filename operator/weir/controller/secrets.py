"""Whether a Secret holds what a spec refers to. Read one by one, by name; the values never leave this file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from weir.api.frontierprovider import ALLOWED_HOSTS_ANNOTATION
from weir.controller.evidence import Evidence
from weir.kube.client import KubeClient
from weir.kube.errors import Forbidden, NotFound
from weir.kube.resources import SECRETS, Json, Key

FINE_SECONDS = 60.0
"""A Secret that held what was wanted is looked at again after this long,"""
LACKING_SECONDS = 3.0
"""and one that did not after this."""


@dataclass(frozen=True)
class SecretView:
    """What may be known of a Secret: the names of its keys, and the hosts that they may be sent to."""

    name: str
    keys: frozenset[str]
    allowed_hosts: frozenset[str]


class Secrets:
    """Remembers for a while what it found."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._found: dict[Key, tuple[float, SecretView | Evidence]] = {}

    async def lacks(self, namespace: str, name: str, key: str, base_url: str = "") -> Evidence | None:
        """Why the key cannot be used (for requests to `base_url`, if given), or None where it can."""
        now, where = time.monotonic(), Key(namespace, name)
        until, found = self._found.get(where, (0.0, None))
        if found is None or now >= until:
            found = await self._read(namespace, name)
            until = now + FINE_SECONDS
        evidence = found if isinstance(found, Evidence) else _judge(found, key, base_url)
        self._found[where] = (min(until, now + LACKING_SECONDS) if evidence else until, found)
        return evidence

    async def _read(self, namespace: str, name: str) -> SecretView | Evidence:
        try:
            return _view(await self._kube.get(SECRETS, namespace, name))
        except NotFound:
            return Evidence("SecretMissing", f"there is no Secret {name} in namespace {namespace}")
        except Forbidden as error:
            return Evidence("SecretForbidden", f"the operator may not read Secret {name}: {error.message}")


def _view(obj: Json) -> SecretView:
    hosts = obj["metadata"].get("annotations", {}).get(ALLOWED_HOSTS_ANNOTATION, "")
    return SecretView(
        name=obj["metadata"]["name"],
        keys=frozenset(name for name, value in (obj.get("data") or {}).items() if value),
        allowed_hosts=frozenset(host.strip().lower() for host in hosts.split(",") if host.strip()),
    )


def _judge(secret: SecretView, key: str, base_url: str) -> Evidence | None:
    if key not in secret.keys:
        return Evidence("SecretKeyMissing", f"Secret {secret.name} has no key {key}")
    if base_url and not secret.allowed_hosts & _spellings(base_url):
        host = urlsplit(base_url).netloc
        return Evidence(
            "HostNotAllowed",
            f"Secret {secret.name} does not allow its key to be sent to {host};"
            f" set its annotation {ALLOWED_HOSTS_ANNOTATION}: {host}",
        )
    return None


def _spellings(base_url: str) -> frozenset[str]:
    """How a Secret may name the host of a URL: without and with the port."""
    url = urlsplit(base_url)
    host = (url.hostname or "").lower()
    bracketed = f"[{host}]" if ":" in host else host
    port = url.port or (443 if url.scheme == "https" else 80)
    return frozenset({host, bracketed, f"{bracketed}:{port}"})
