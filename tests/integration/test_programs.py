"""Where the programs of the control plane are looked for, and what a build leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import programs
from controlplane.catalogue import CATALOGUE, module_of


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and an empty folder on PATH before everything else; returns that folder."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    # Go keeps what it compiled under the same variable: to compile its standard library again would test nothing.
    monkeypatch.setenv("GOCACHE", os.environ.get("GOCACHE") or str(programs.cache().parent / "go-build"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "path"
    path.mkdir()
    go = shutil.which("go")
    monkeypatch.setenv("PATH", f"{path}:{Path(go).parent}:/usr/bin:/bin" if go else f"{path}:/usr/bin:/bin")
    return path


def fake(folder: Path, name: str, version: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {name} version {version}\n")
    program.chmod(0o755)
    return program


def test_assets_come_before_everything(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    fake(nowhere, "etcd", module_of("etcd").version)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert programs.find("etcd") == {"etcd": nowhere / "etcd"}
    wanted = fake(assets, "etcd", "0.0.1")
    assert programs.find("etcd") == {"etcd": wanted}


def test_the_wrong_version_on_path_is_not_taken(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(nowhere, "etcd", "3.5.0")
    fake(nowhere, "go", "none").write_text("#!/bin/sh\necho this go builds nothing >&2\nexit 1\n")
    with pytest.raises(programs.UnavailableError, match=r"etcd .* cannot be built here: this go builds nothing"):
        programs.find("etcd")
    (folder,) = (path for path in (programs.cache() / "programs").iterdir() if path.is_dir())
    assert list(folder.iterdir()) == [], "nothing half-done is left to be taken for whole"


@pytest.mark.controlplane
def test_two_at_once_build_once(nowhere: Path) -> None:
    assert nowhere.exists()
    command = [sys.executable, "-m", "controlplane", "pause"]
    hack = Path(__file__).parents[2] / "hack"
    both = [
        subprocess.Popen(command, cwd=hack, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = [each.communicate(timeout=120) for each in both]
    assert answers[0][0] == answers[1][0]
    assert Path(answers[0][0].strip()).exists()
    assert sum("done in" in errors for _, errors in answers) == 1


def test_every_program_has_one_module() -> None:
    names = [name for module in CATALOGUE for name in module.programs]
    assert len(names) == len(set(names))
    for module in CATALOGUE:
        assert (module.directory / "go.mod").exists()
