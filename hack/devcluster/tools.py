"""kubectl and helm, pointed at a dev cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from controlplane import programs
from controlplane.run import RunError
from devcluster.cluster import DevCluster

ROOT = Path(__file__).parents[2]


class Tools:
    """Both run in the root of the checkout. A command that fails raises RunError with its own words."""

    def __init__(self, cluster: DevCluster) -> None:
        self._programs = programs.find("kubectl", "helm")
        self._environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """What it prints; `text` is its standard input."""
        return self._run(str(self._programs["kubectl"]), *arguments, text=text)

    def helm(self, *arguments: str, text: str | None = None) -> str:
        """What it prints; `text` is its standard input."""
        return self._run(str(self._programs["helm"]), *arguments, text=text)

    def helm_install(self, values: Path, *arguments: str) -> None:
        """Installs the chart as release `weir` in namespace weir-system and waits until it is Ready."""
        install = ["install", "weir", "charts/weir", "--namespace=weir-system", "--create-namespace"]
        self.helm(*install, f"--values={values}", *arguments, "--wait", "--timeout=120s")

    def _run(self, *command: str, text: str | None = None) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self._environment, input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            shown = " ".join([Path(command[0]).name, *command[1:4]])
            raise RunError(f"{shown} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
