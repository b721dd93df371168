"""What the queue holds: which object of which of our kinds."""

from __future__ import annotations

from typing import Literal, NamedTuple

from weir.kube.resources import Key

Kind = Literal["ModelDeployment", "FrontierProvider", "SpendLedger"]


class WorkKey(NamedTuple):
    """One object to look at."""

    kind: Kind
    namespace: str
    name: str

    @property
    def key(self) -> Key:
        """Without the kind."""
        return Key(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"
