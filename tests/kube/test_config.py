"""Every way in that is supported gets in, in the documented order; every other is refused in a sentence that names the fix."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from weir.kube.config import TOKEN_SECONDS, ClusterConfig, FileToken, load_config
from weir.kube.kubeconfig import ConfigError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pki")
    crt, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=weir -days 1"
        f" -out {crt} -keyout {key}".split(),
        check=True,
        capture_output=True,
    )
    return crt, key


def kubeconfig(
    folder: Path,
    cluster: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
) -> Path:
    path = folder / "config"
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"} | (context or {})}],
        "clusters": [{"name": "c", "cluster": {"server": "https://one:6443/"} | (cluster or {})}],
        "users": [{"name": "u", "user": user if user is not None else {"token": "t1"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def load(path: Path | None = None, tmp_path: Path = Path("/nonexistent"), **environ: str) -> ClusterConfig:
    return load_config(path, environ=environ, service_account=tmp_path / "sa", home=tmp_path / "home")


def token(config: ClusterConfig) -> str | None:
    return config.token() if config.token else None


def test_a_token(tmp_path: Path) -> None:
    config = load(kubeconfig(tmp_path, context={"namespace": "prod"}))
    assert (config.server, config.namespace, token(config)) == ("https://one:6443", "prod", "t1")
    assert config.ssl is not None
    assert config.ssl.verify_mode is ssl.CERT_REQUIRED
    assert "t1" not in repr(config)


def test_a_token_file_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("t2\n")
    assert token(load(kubeconfig(tmp_path, user={"tokenFile": "secret", "token": "older"}))) == "t2"


def test_client_certificate_and_ca_inline_and_as_files(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    crt, key = certificate
    inline = [base64.b64encode(path.read_bytes()).decode() for path in certificate]
    for cluster, user in (
        ({"certificate-authority": str(crt)}, {"client-certificate": str(crt), "client-key": str(key)}),
        (
            {"certificate-authority-data": inline[0], "certificate-authority": "ignored"},
            {"client-certificate-data": inline[0], "client-key-data": inline[1]},
        ),
    ):
        config = load(kubeconfig(tmp_path, cluster, user))
        assert config.ssl is not None
        assert config.ssl.get_ca_certs()[0]["subject"] == ((("commonName", "weir"),),)
        assert token(config) is None


def test_verification_is_off_only_where_asked(tmp_path: Path) -> None:
    config = load(kubeconfig(tmp_path, {"insecure-skip-tls-verify": True}))
    assert config.ssl is not None
    assert (config.ssl.verify_mode, config.ssl.check_hostname) == (ssl.CERT_NONE, False)


def test_plain_http_has_no_tls(tmp_path: Path) -> None:
    assert load(kubeconfig(tmp_path, {"server": "http://127.0.0.1:8001"})).ssl is None


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({}, {"exec": {"command": "aws"}}, "credential plugin.*kubectl create token"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider.*kubectl create token"),
        ({}, {"username": "a", "password": "hunter2"}, "user name with password"),
        ({}, {"as": "root"}, "impersonation"),
        ({"proxy-url": "http://p"}, {}, "proxy-url"),
        ({"server": "one:6443"}, {}, r"must be an http\(s\) URL"),
        ({"server": 7}, {}, "cluster 'c'.*server"),
        ({"certificate-authority": "/no/such"}, {}, "certificate cannot be used"),
        ({"certificate-authority-data": "not base64!"}, {}, "certificate-authority-data is not base64"),
        ({}, {"tokenFile": "/no/such"}, "/no/such cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        token(load(kubeconfig(tmp_path, cluster, user)))
    assert "hunter2" not in str(refused.value)


def test_a_missing_file_a_missing_context_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none")
    path = kubeconfig(tmp_path)
    with pytest.raises(ConfigError, match="names the context 'there' and does not define it"):
        load_config(path, "there")
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load(path)
    path.write_text("contexts: []")
    with pytest.raises(ConfigError, match="no current-context"):
        load(path)


def service_account(tmp_path: Path, ca: Path) -> None:
    folder = tmp_path / "sa"
    folder.mkdir()
    (folder / "token").write_text("pod-token")
    (folder / "namespace").write_text("inference\n")
    (folder / "ca.crt").write_bytes(ca.read_bytes())


def test_the_order_of_places(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """The given file, then $KUBECONFIG, then the pod's own account, then the home directory."""
    with pytest.raises(ConfigError, match=r"--kubeconfig.*KUBECONFIG.*KUBERNETES_SERVICE_HOST.*\.kube/config"):
        load(None, tmp_path)
    (tmp_path / "home" / ".kube").mkdir(parents=True)
    kubeconfig(tmp_path / "home" / ".kube", {"server": "https://home"})
    assert load(None, tmp_path).server == "https://home"
    service_account(tmp_path, certificate[0])
    assert load(None, tmp_path).server == "https://home"  # a token lies there, and yet this is no pod
    pod = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = load(None, tmp_path, **pod)
    assert (config.server, config.namespace, token(config)) == ("https://[fd00::1]:443", "inference", "pod-token")
    listed = kubeconfig(tmp_path, {"server": "https://env"})
    assert load(None, tmp_path, KUBECONFIG=str(listed), **pod).server == "https://env"
    (tmp_path / "given").mkdir()
    given = kubeconfig(tmp_path / "given", {"server": "https://given"})
    assert load(given, tmp_path, KUBECONFIG=str(listed), **pod).server == "https://given"


def test_several_files_are_merged_and_the_first_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(yaml.safe_dump({"clusters": [{"name": "c", "cluster": {"server": "https://first"}}]}))
    second.mkdir()
    path = kubeconfig(second, user={"tokenFile": "secret"})
    (second / "secret").write_text("beside-the-second")
    config = load(None, tmp_path, KUBECONFIG=f"{first}:{tmp_path / 'none'}:{path}")
    assert (config.server, token(config)) == ("https://first", "beside-the-second")


def test_a_renewed_token_is_read_again(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "token"
    path.write_text("old")
    source = FileToken(path, clock=lambda: now)
    assert source() == "old"
    path.write_text("new")
    now = TOKEN_SECONDS - 1
    assert source() == "old"
    now = TOKEN_SECONDS
    assert source() == "new"
    path.write_text("")
    now = 2 * TOKEN_SECONDS
    with pytest.raises(ConfigError, match="is empty"):
        source()
