"""What every model of the API has in common: camelCase on the wire, frozen in memory, CEL rules beside the fields they guard."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

GROUP = "weir.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Rule(BaseModel):
    """One CEL validation of the CRD schema. `message` is a sentence that names the field and the fix."""

    model_config = ConfigDict(frozen=True)

    rule: str
    message: str
    field_path: str | None = None

    def to_schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.rule, "message": self.message}
        return entry | ({"fieldPath": self.field_path} if self.field_path else {})


class ApiModel(BaseModel):
    """A part of a custom resource. Unknown fields are ignored on reading: a newer API server may send more."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")
    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        if cls.rules:
            handler.resolve_ref_schema(json_schema)["x-kubernetes-validations"] = [
                rule.to_schema() for rule in cls.rules
            ]
        return json_schema


class ObjectMeta(ApiModel):
    """The part of a Kubernetes object's metadata that Weir reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class CustomResource(ApiModel):
    """A whole custom resource as the API server returns it."""

    kind_name: ClassVar[str]
    metadata: ObjectMeta

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> Self:
        """Parse what the API server sent. A pydantic ValidationError means the stored object is older than the schema."""
        return cls.model_validate(obj)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
