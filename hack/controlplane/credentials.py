"""Certificates, tokens and kubeconfig files of one control plane, as real ones have them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml

USERS: dict[str, str] = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}
"""User -> group, besides one `system:node:NAME` of group system:nodes for each node."""


@dataclass(frozen=True)
class Credentials:
    """Everything secret of a control plane, in one folder."""

    folder: Path
    tokens: dict[str, str]

    @property
    def ca(self) -> Path:
        """The certificate that signed the API server's."""
        return self.folder / "ca.crt"

    @property
    def serving(self) -> Path:
        """The API server's certificate; its key beside it is `serving.key`."""
        return self.folder / "serving.crt"

    @property
    def service_account_key(self) -> Path:
        """Signs and verifies the tokens of service accounts."""
        return self.folder / "service-account.key"

    @property
    def token_file(self) -> Path:
        """For --token-auth-file."""
        return self.folder / "tokens.csv"

    def kubeconfig(self, user: str, server: str, name: str | None = None) -> Path:
        """Writes the kubeconfig of a user; server is a URL whose host the certificate names."""
        path = self.folder / f"{name or user.replace(':', '-')}.kubeconfig"
        cluster = {"server": server, "certificate-authority": str(self.ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "weir", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "weir", "context": {"cluster": "weir", "user": user}}],
            "current-context": "weir",
        }
        path.touch(0o600)
        path.write_text(yaml.safe_dump(content))
        return path


def issue(folder: Path, hosts: list[str], nodes: list[str]) -> Credentials:
    """Makes a CA, a serving certificate for the hosts (names or addresses), keys and tokens."""
    folder.mkdir(mode=0o700)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    serving = authority.issue_cert(*hosts, common_name="kube-apiserver")
    serving.private_key_pem.write_to_path(folder / "serving.key")
    (folder / "serving.crt").write_bytes(b"".join(blob.bytes() for blob in serving.cert_chain_pems))
    authority.issue_cert("service-accounts.invalid").private_key_pem.write_to_path(folder / "service-account.key")
    groups = USERS | {f"system:node:{node}": "system:nodes" for node in nodes}
    tokens = {user: secrets.token_urlsafe(24) for user in groups}
    lines = (f'{tokens[user]},{user},{user},"{group}"\n' for user, group in groups.items())
    (folder / "tokens.csv").write_text("".join(lines))
    return Credentials(folder, tokens)
