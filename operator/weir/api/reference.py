"""Generates docs/reference/api.md from the CRDs: every field a user may set, its type, default, bounds and rules."""

from collections.abc import Iterator
from typing import Any

from weir.api.base import API_VERSION
from weir.api.crd import KINDS, Kind, definition

_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
}


def generate() -> str:
    """The page, in Markdown."""
    parts = [_INTRODUCTION, *(_section(kind) for kind in KINDS)]
    return "\n".join(parts)


_INTRODUCTION = f"""<!-- Generated from operator/weir/api by `make generate`; edit the models, not this. -->
# API reference

Group and version `{API_VERSION}`. Durations are Go's (`1m30s`), money is a decimal string, percentages are integers.
`kubectl explain modeldeployments.weir.dev.spec` says the same in the terminal.
"""


def _section(kind: Kind) -> str:
    version = definition(kind)["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    lines = [
        f"## {kind.model.kind_name}",
        "",
        root["description"],
        "",
        f"Short name `{kind.short}`, category `weir`.",
        "",
    ]
    lines += ["| field | type | default | |", "|---|---|---|---|"]
    lines += _rows("spec", root["properties"]["spec"])
    rules = list(_rules(root))
    lines += (
        ["", "The API server refuses what breaks one of these, with the sentence:", "", *(f"- {r}" for r in rules)]
        if rules
        else []
    )
    lines += ["", "Status, written by Weir:", "", "| field | type | |", "|---|---|---|"]
    lines += [_status_row(path, node) for path, node in _leaves("status", root["properties"]["status"])]
    return "\n".join(lines) + "\n"


def _rows(path: str, node: dict[str, Any]) -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        required = "**required**" if name in node.get("required", ()) else _default(child)
        bounds = [text.format(child[key]) for key, text in _BOUNDS.items() if key in child]
        if "enum" in child:
            bounds.insert(0, "one of " + ", ".join(f"`{value}`" for value in child["enum"]))
        text = "; ".join(filter(None, [child.get("description", ""), *bounds])).replace("|", "\\|").replace("\n", " ")
        yield f"| `{here}` | {_type(child)} | {required} | {text} |"
        yield from _rows(here, child)
        if child.get("type") == "array":
            yield from _rows(f"{here}[]", child["items"])


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{', '.join(value) if isinstance(value, list) else value}`"


def _type(node: dict[str, Any]) -> str:
    if node["type"] == "array":
        return f"list of {_type(node['items'])}s"
    return str(node["type"])


def _rules(node: dict[str, Any]) -> Iterator[str]:
    for rule in node.get("x-kubernetes-validations", ()):
        yield rule["message"]
    for child in node.get("properties", {}).values():
        yield from _rules(child)


def _leaves(path: str, node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        if "properties" in child:
            yield from _leaves(f"{path}.{name}", child)
        else:
            yield f"{path}.{name}", child


def _status_row(path: str, node: dict[str, Any]) -> str:
    return f"| `{path}` | {_type(node)} | {node.get('description', '')} |"
