"""Who a served name belongs to where several ModelDeployments of a namespace claim it: the oldest keeps it. Pure."""

from collections.abc import Iterable

from weir.api.modeldeployment import ModelDeployment


def owners(mdeps: Iterable[ModelDeployment]) -> dict[str, ModelDeployment]:
    """Owner by served name, among ModelDeployments of one namespace. Of two made within a second the lesser uid is the elder."""
    eldest_first = sorted(mdeps, key=lambda m: (m.metadata.creation_timestamp, m.metadata.uid))
    found: dict[str, ModelDeployment] = {}
    for mdep in eldest_first:
        for name in mdep.served_names:
            found.setdefault(name, mdep)
    return found
