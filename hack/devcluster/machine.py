"""What a cluster asks of the machine: root, namespaces, and three Debian packages; says in one sentence what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {"runc": "runc", "iptables": "iptables", "ip": "iproute2", "nsenter": "util-linux", "mount": "mount"}
"""Program -> the Debian package that has it. runc comes from there, since building it takes libseccomp's headers."""


def obstacle() -> str | None:
    """Why there can be no cluster here, in a sentence with the way out; None where nothing is in the way.

    As root, installs the packages that are missing, and says so.
    """
    if sys.platform != "linux":
        return "the dev cluster needs Linux"
    if os.geteuid() != 0:
        return "the dev cluster needs root for its network and mount namespaces; run as root"
    missing = sorted({PACKAGES[name] for name in PACKAGES if shutil.which(name, path=SYSTEM_PATH) is None})
    if missing and (reason := _install(missing)):
        return reason
    return _refused_namespaces() or _refused_cgroups()


def _install(packages: list[str]) -> str | None:
    wanted = f"the dev cluster needs the packages {', '.join(packages)}"
    if shutil.which("apt-get") is None:
        return f"{wanted}, and there is no apt-get to install them with"
    print(f"installing {', '.join(packages)} with apt-get", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-qq", *command], check=False, capture_output=True, text=True, env=environment
        )
    return f"{wanted}, and apt-get failed: {done.stderr.strip()[-300:]}" if done.returncode else None


def _refused_namespaces() -> str | None:
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        return f"this machine refuses namespaces to root ({tried.stderr.strip()})"
    return None


def _refused_cgroups() -> str | None:
    if not os.access("/sys/fs/cgroup", os.W_OK) or not any(Path("/sys/fs/cgroup").iterdir()):
        return "/sys/fs/cgroup is not writable here (a container without privileges?)"
    return None


def make_cgroup(name: str, *children: str) -> None:
    """Makes a cgroup with children at the top of every hierarchy, for the kubelets to make those of pods in."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():  # version 2: a controller must be passed on, level by level
        controllers = " ".join(f"+{each}" for each in (top / "cgroup.controllers").read_text().split())
        (top / "cgroup.subtree_control").write_text(controllers)
        for child in children:
            (top / name / child).mkdir(parents=True)
        (top / name / "cgroup.subtree_control").write_text(controllers)
        return
    for hierarchy in (path for path in top.iterdir() if path.is_dir() and not path.is_symlink()):
        if hierarchy.name == "unified":  # version 2 besides version 1, without controllers
            continue
        for child in children:
            (hierarchy / name / child).mkdir(parents=True)
        if hierarchy.name.startswith("cpuset"):  # a new one has no CPU at all
            for folder in (hierarchy / name, *(hierarchy / name / child for child in children)):
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (folder / setting).write_text((hierarchy / setting).read_text())
