"""The CRDs: what is in crds/ is what the models say, and it is a structural schema."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from weir.api.crd import KINDS, Kind, generate

CRDS = Path(__file__).parents[2] / "crds"


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema node below and including this one, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def schema_of(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(generate()[kind.file_name])["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    return schema


def test_the_files_are_what_the_models_generate() -> None:
    assert {path.name: path.read_text() for path in CRDS.iterdir()} == generate(), "run `make generate`"


def test_a_file_says_everything_where_it_is_read() -> None:
    """No YAML anchors: a reader and a diff see every field whole."""
    for text in generate().values():
        assert not [token for token in yaml.scan(text) if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_the_schema_is_structural(kind: Kind) -> None:
    known = {
        "type", "description", "default", "enum", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
        "minItems", "maxItems", "items", "properties", "additionalProperties", "required",
    }  # fmt: skip
    for path, node in nodes(schema_of(kind)):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), f"{path} has no type"
        unknown = {key for key in node if key not in known and not key.startswith("x-kubernetes-")}
        assert not unknown, f"{path}: {unknown} are not of a structural schema"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_every_string_and_list_of_a_spec_that_a_rule_reads_is_bounded(kind: Kind) -> None:
    """The API server estimates a rule's cost by the bounds and refuses a CRD whose rules could be dear."""
    for path, node in nodes(schema_of(kind)["properties"]["spec"]):
        for rule in node.get("x-kubernetes-validations", ()):
            for name, child in node.get("properties", {}).items():
                if f"self.{name}." in rule["rule"] and child["type"] == "string":
                    assert "maxLength" in child or "enum" in child, f"{path}.{name}"
                if f"self.{name}." in rule["rule"] and child["type"] == "array":
                    assert "maxItems" in child, f"{path}.{name}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_nothing_observed_is_required_or_defaulted(kind: Kind) -> None:
    status = schema_of(kind)["properties"]["status"]
    assert "required" not in status
    for path, node in nodes(status):
        assert "default" not in node, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_printer_columns_and_scale_point_at_fields_that_exist(kind: Kind) -> None:
    fields = {path for path, _ in nodes(schema_of(kind))}
    paths = [column.path for column in kind.columns] + list((kind.scale or {}).values())
    for path in paths:
        if not path.startswith(".metadata."):
            assert path.split("[?")[0] in fields, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_every_rule_tells_the_user_which_field_to_change(kind: Kind) -> None:
    rules = [rule for _, node in nodes(schema_of(kind)) for rule in node.get("x-kubernetes-validations", ())]
    for rule in rules:
        assert rule["message"].startswith(("spec.", "metadata.")), rule["message"]


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """What the API server makes of a value: the defaults of absent fields, from the outside in."""
    if isinstance(value, list):
        return [defaulted(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    filled = {name: child["default"] for name, child in fields.items() if "default" in child} | value
    return {name: defaulted(fields[name], item) if name in fields else item for name, item in filled.items()}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (KINDS[0], {"model": {"source": "hf://a/b"}}),
        (
            KINDS[0],
            {
                "model": {"source": "hf://a/b"},
                "accelerator": {},
                "overflow": {"targets": [{"providerRef": {"name": "p"}, "model": "m"}]},
            },
        ),
        (
            KINDS[1],
            {
                "baseURL": "https://example.com",
                "credentials": {"secretRef": {"name": "s"}},
                "models": [{"name": "m", "contextTokens": 1, "maxOutputTokens": 1}],
            },
        ),
        (KINDS[2], {"for": {"kind": "FrontierProvider", "name": "p"}}),
    ],
)
def test_an_object_reads_the_same_whether_the_server_or_the_model_filled_it_in(
    kind: Kind, spec: dict[str, Any]
) -> None:
    filled = defaulted(schema_of(kind)["properties"]["spec"], spec)
    as_written, as_stored = ({"metadata": {"name": "x"}, "spec": each} for each in (spec, filled))
    assert kind.model.from_object(as_written) == kind.model.from_object(as_stored)
    assert filled != spec, "the schema fills in something"
