"""Reads kubeconfig files: tokens, token files, client certificates. Refuses by name what it cannot do; never ignores it."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field


class ConfigError(Exception):
    """The cluster cannot be found or logged in to. The message is one sentence that names the file and the fix."""


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Entry(BaseModel):
    model_config = ConfigDict(alias_generator=_kebab, extra="allow", hide_input_in_errors=True)
    base: Path = Field(default=Path(), exclude=True)
    """The folder of the file it was read from: relative paths start there."""

    def file(self, name: str | None) -> Path | None:
        return self.base / name if name else None


_E = TypeVar("_E", bound=_Entry)


class _Cluster(_Entry):
    server: str
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _User(_Entry):
    token: str | None = None
    tokenFile: str | None = Field(default=None, alias="tokenFile")  # noqa: N815 - the format's own spelling
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None


class _Context(_Entry):
    cluster: str
    user: str = ""
    namespace: str = "default"


# Each would change who we are or whom we talk to, so ignoring it would be worse than stopping.
_REFUSED_OF_USERS = {
    "exec": "a credential plugin (exec): write a kubeconfig with a token, e.g. by `kubectl create token`",
    "auth-provider": "an auth-provider: write a kubeconfig with a token, e.g. by `kubectl create token`",
    "username": "a user name with password, which API servers no longer take: use a token or a client certificate",
    "as": "impersonation (as): log in as the user meant",
}


@dataclass(frozen=True)
class KubeconfigEntry:
    """The cluster and the user that one context names, with paths made absolute."""

    server: str
    namespace: str
    source: str
    tls_server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    verify: bool = True
    ca_file: Path | None = None
    ca_data: str | None = field(default=None, repr=False)
    certificate: Path | bytes | None = field(default=None, repr=False)
    private_key: Path | bytes | None = field(default=None, repr=False)

    def tls_context(self) -> ssl.SSLContext:
        """Raises ConfigError where a certificate cannot be read or does not fit its key."""
        try:
            tls = ssl.create_default_context(cafile=self.ca_file, cadata=self.ca_data)
            if not self.verify:
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
            if self.certificate and self.private_key:
                self._load_client_certificate(tls, self.certificate, self.private_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.source}: a certificate cannot be used: {error}") from error
        return tls

    @staticmethod
    def _load_client_certificate(tls: ssl.SSLContext, certificate: Path | bytes, private_key: Path | bytes) -> None:
        # OpenSSL's binding takes paths only, so inline data passes through a folder that only we can read, and goes.
        with tempfile.TemporaryDirectory(prefix="weir-") as folder:
            paths = []
            for name, given in (("tls.crt", certificate), ("tls.key", private_key)):
                path = given if isinstance(given, Path) else Path(folder) / name
                if isinstance(given, bytes):
                    path.touch(mode=0o600)
                    path.write_bytes(given)
                paths.append(path)
            tls.load_cert_chain(str(paths[0]), str(paths[1]))


def read_kubeconfig(paths: Sequence[Path], context: str | None = None) -> KubeconfigEntry:
    """The entry for `context`, or for the current one. Several files are merged as kubectl does: the first to name a thing wins.

    Raises ConfigError.
    """
    source = ":".join(str(path) for path in paths)
    documents = [(path, _parse(path)) for path in paths if path.exists()]
    if not documents:
        raise ConfigError(f"the kubeconfig {source} does not exist")
    wanted = context or next((d["current-context"] for _, d in documents if d.get("current-context")), None)
    if not wanted:
        raise ConfigError(f"{source} has no current-context: choose one by `kubectl config use-context`")
    chosen = _find(documents, "context", wanted, _Context)
    cluster = _find(documents, "cluster", chosen.cluster, _Cluster)
    user = _find(documents, "user", chosen.user, _User) if chosen.user else _User()
    for key, what in _REFUSED_OF_USERS.items():
        if (user.model_extra or {}).get(key):
            raise ConfigError(f"{source}: user {chosen.user!r} needs {what}")
    if cluster.proxy_url:
        raise ConfigError(f"{source}: cluster {chosen.cluster!r} needs a proxy (proxy-url), which is not supported")
    if not cluster.server.startswith(("http://", "https://")):
        raise ConfigError(
            f"{source}: cluster {chosen.cluster!r}: server must be an http(s) URL, not {cluster.server!r}"
        )
    ca = _decode(source, "certificate-authority-data", cluster.certificate_authority_data)
    return KubeconfigEntry(
        server=cluster.server,
        namespace=chosen.namespace,
        source=f"{source} (context {wanted})",
        tls_server_name=cluster.tls_server_name,
        token=user.token,
        token_file=user.file(user.tokenFile),
        verify=not cluster.insecure_skip_tls_verify,
        ca_file=None if ca else cluster.file(cluster.certificate_authority),
        ca_data=ca.decode("ascii", "replace") if ca else None,
        certificate=_decode(source, "client-certificate-data", user.client_certificate_data)
        or user.file(user.client_certificate),
        private_key=_decode(source, "client-key-data", user.client_key_data) or user.file(user.client_key),
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no kubeconfig: it holds no mapping")
    return document


def _find(documents: list[tuple[Path, dict[str, Any]]], kind: str, name: str, model: type[_E]) -> _E:
    for path, document in documents:
        for entry in document.get(f"{kind}s") or []:
            if entry.get("name") == name:
                try:
                    return model.model_validate({**(entry.get(kind) or {}), "base": path.absolute().parent})
                except pydantic.ValidationError as error:
                    first = error.errors(include_input=False)[0]
                    raise ConfigError(f"{path}: {kind} {name!r}: {first['loc']}: {first['msg']}") from error
    raise ConfigError(f"{':'.join(str(p) for p, _ in documents)} names the {kind} {name!r} and does not define it")


def _decode(source: str, field_name: str, data: str | None) -> bytes | None:
    try:
        return base64.b64decode(data, validate=True) if data else None
    except binascii.Error as error:
        raise ConfigError(f"{source}: {field_name} is not base64") from error
