"""What vLLM refuses, in its words: type errors as pydantic reports them, then the checks of its sampling parameters."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

from engines import tokens
from engines.vllm.arguments import Settings

NATURAL_LENGTH = 256  # tokens of an answer whose length nobody asked for


class RequestError(Exception):
    """An error answer: status and vLLM's body."""

    def __init__(self, message: str, type_: str = "BadRequestError", code: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def busy() -> RequestError:
    """Admission's answer. No Retry-After comes with it."""
    message = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
    return RequestError(message, "Service Unavailable", 503)


def engine_dead() -> RequestError:
    message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    return RequestError(message, "InternalServerError", 500)


def shutting_down() -> RequestError:
    return RequestError("cannot schedule new futures after shutdown", "InternalServerError", 500)


def _optional(schema: core_schema.CoreSchema) -> core_schema.TypedDictField:
    return core_schema.typed_dict_field(core_schema.nullable_schema(schema), required=False)


_INT, _FLOAT, _BOOL, _STR = (
    core_schema.int_schema(),
    core_schema.float_schema(),
    core_schema.bool_schema(),
    core_schema.str_schema(),
)
_ANY = core_schema.any_schema()
_STREAM_OPTIONS = core_schema.typed_dict_schema(
    {"include_usage": _optional(_BOOL), "continuous_usage_stats": _optional(_BOOL)}
)
_COMMON = {
    "model": _optional(_STR),
    "max_tokens": _optional(_INT),
    "min_tokens": _optional(_INT),
    "n": _optional(_INT),
    "stream": _optional(_BOOL),
    "stream_options": _optional(_STREAM_OPTIONS),
    "temperature": _optional(_FLOAT),
    "top_p": _optional(_FLOAT),
    "top_k": _optional(_INT),
    "min_p": _optional(_FLOAT),
    "presence_penalty": _optional(_FLOAT),
    "frequency_penalty": _optional(_FLOAT),
    "seed": _optional(_INT),
    "ignore_eos": _optional(_BOOL),
    "cache_salt": _optional(_STR),
    "sim": _optional(
        core_schema.typed_dict_schema({"prompt_tokens": _optional(_INT), "output_tokens": _optional(_INT)})
    ),
}
_MESSAGE = core_schema.typed_dict_schema(
    {"role": core_schema.typed_dict_field(_STR), "content": _optional(_ANY)}, extra_behavior="allow"
)


def _validator(fields: dict[str, core_schema.TypedDictField]) -> SchemaValidator:
    return SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior="allow"))


CHAT = _validator(
    {
        "messages": core_schema.typed_dict_field(core_schema.list_schema(_MESSAGE)),
        "max_completion_tokens": _optional(_INT),
        "tools": _optional(core_schema.list_schema(_ANY)),
        "tool_choice": _optional(_ANY),
        **_COMMON,
    }
)
_PROMPT = core_schema.union_schema(
    [
        _STR,
        core_schema.list_schema(_INT, strict=True),
        core_schema.list_schema(_STR),
        core_schema.list_schema(core_schema.list_schema(_INT)),
    ]
)
COMPLETION = _validator({"prompt": _optional(_PROMPT), **_COMMON})
EMBEDDING = _validator(
    {"model": _optional(_STR), "input": core_schema.typed_dict_field(_PROMPT), "dimensions": _optional(_INT)}
)
TOKENIZE_PROMPT = _validator(
    {"model": _optional(_STR), "prompt": core_schema.typed_dict_field(_STR), "return_token_strs": _optional(_BOOL)}
)
TOKENIZE_CHAT = _validator(
    {
        "model": _optional(_STR),
        "messages": core_schema.typed_dict_field(core_schema.list_schema(_MESSAGE)),
        "return_token_strs": _optional(_BOOL),
    }
)
DETOKENIZE = _validator(
    {
        "model": _optional(_STR),
        "tokens": core_schema.typed_dict_field(core_schema.list_schema(core_schema.int_schema(ge=0, le=2**63 - 1))),
    }
)


def parse(content_type: str, raw: bytes, *validators: SchemaValidator) -> dict[str, Any]:
    """The body as a dict of checked types: what the first of the validators that fits makes of it. Raises RequestError as vLLM words it."""
    if content_type.lower() != "application/json":
        raise _invalid_body(["Unsupported Media Type: Only 'application/json' is allowed"], None)
    if not raw:
        raise _invalid_body([{"type": "missing", "loc": "body", "msg": "Field required", "input": "None"}], "body")
    try:
        body = json.loads(raw)
    except ValueError as error:
        position, reason = (error.pos, error.msg) if isinstance(error, json.JSONDecodeError) else (0, str(error))
        detail = {
            "type": "json_invalid",
            "loc": f"body.{position}",
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
        }
        raise _invalid_body([{**detail, "ctx": {"error": reason}}], f"body.{position}") from None
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise _invalid_body(
            [{"type": "model_attributes_type", "loc": "body", "msg": message, "input": _brief(body)}], "body"
        )
    details: list[dict[str, Any]] = []
    for validator in validators:
        try:
            checked: dict[str, Any] = validator.validate_python(body)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                loc = ".".join(["body", *(str(part) for part in item["loc"])])
                details.append({"type": item["type"], "loc": loc, "msg": item["msg"], "input": _brief(item["input"])})
        else:
            return checked
    raise _invalid_body(details, details[0]["loc"])


def _brief(value: object) -> str:
    return f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)[:200]


def _invalid_body(details: list[Any], param: str | None) -> RequestError:
    lines = "\n".join(f"  {detail}" for detail in details[:10])
    return RequestError(
        f"{len(details)} validation error{'s' if len(details) > 1 else ''}:\n{lines}", "Bad Request", 400, param
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A checked request: what to generate, and how the answer should look."""

    model: str
    prompts: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    n: int
    output_tokens: int
    stops: bool
    max_tokens: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    salt: str | None


def check_model(settings: Settings, name: str | None) -> str:
    """The name to answer with. Raises RequestError (404) for one that is not served."""
    if name and name not in settings.names:
        message = f"The model `{name}` does not exist. Valid aliases: {', '.join(settings.names)}."
        raise RequestError(message, "NotFoundError", 404, "model")
    return name or settings.names[0]


def task(settings: Settings, body: dict[str, Any], prompts: tuple[str, ...], told: int | None) -> Task:
    """Checks what vLLM checks, in its order. `told`: the prompt's length where the request says it (x-sim-prompt-tokens)."""
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    if limit is not None and limit > settings.max_model_len:
        advice = f"max_tokens={limit} cannot be greater than max_model_len={settings.max_model_len}. Please request fewer output tokens."
        raise _invalid("max_tokens", limit, advice)
    sim = body.get("sim") or {}
    told = sim.get("prompt_tokens") or told
    lengths = tuple(told or max(1, tokens.count(prompt)) for prompt in prompts)
    if max(lengths) > settings.max_model_len:
        seen = settings.max_model_len + 1  # the tokenizer stops one past the limit
        advice = (
            f"This model's maximum context length is {settings.max_model_len} tokens. However, your prompt contains at least {seen} "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        )
        raise _invalid("input_tokens", seen, advice)
    room = settings.max_model_len - max(lengths)
    max_tokens = room if limit is None else min(limit, room)
    n = _sampling(body, max_tokens)
    natural = sim.get("output_tokens") or (NATURAL_LENGTH if limit is None else max_tokens)
    if body.get("ignore_eos"):
        natural = max_tokens
    output = min(max_tokens, max(natural, body.get("min_tokens") or 0))
    options = body.get("stream_options") or {}
    usage = settings.force_include_usage or bool(options.get("include_usage"))
    return Task(
        model=check_model(settings, body.get("model")),
        prompts=prompts,
        prompt_tokens=lengths,
        n=n,
        output_tokens=output,
        stops=output < max_tokens,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        include_usage=usage,
        continuous_usage=usage and (settings.force_include_usage or bool(options.get("continuous_usage_stats"))),
        salt=body.get("cache_salt"),
    )


def check_stream_options(body: dict[str, Any]) -> None:
    if body.get("stream_options") and not body.get("stream"):
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise RequestError(message, param="stream_options")


def _sampling(body: dict[str, Any], max_tokens: int) -> int:
    """Checks the sampling parameters; how many choices are wanted."""

    def given(name: str, default: float) -> float:
        value = body.get(name)
        return default if value is None else value

    n = int(given("n", 1))
    if n < 1:
        raise RequestError(f"n must be at least 1, got {n}.")
    for name in ("presence_penalty", "frequency_penalty"):
        if not -2 <= given(name, 0) <= 2:
            raise RequestError(f"{name} must be in [-2, 2], got {given(name, 0)}.")
    temperature = given("temperature", 1.0)
    if temperature < 0:
        raise _invalid("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
    if temperature > 2:
        raise _invalid("temperature", temperature, f"temperature must be in [0, 2], got {temperature}.")
    top_p, top_k, min_p = given("top_p", 1.0), given("top_k", 0), given("min_p", 0.0)
    if not 0 < top_p <= 1:
        raise _invalid("top_p", top_p, f"top_p must be in (0, 1], got {top_p}.")
    if top_k < -1:
        raise RequestError(f"top_k must be 0 (disable), or at least 1, got {top_k}.")
    if not 0 <= min_p <= 1:
        raise RequestError(f"min_p must be in [0, 1], got {min_p}.")
    if max_tokens < 1:
        raise _invalid("max_tokens", max_tokens, f"max_tokens must be at least 1, got {max_tokens}.")
    min_tokens = given("min_tokens", 0)
    if min_tokens < 0:
        raise RequestError(f"min_tokens must be greater than or equal to 0, got {min_tokens}.")
    if min_tokens > max_tokens:
        raise RequestError(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")
    if temperature < 1e-5 and n > 1:
        raise RequestError(f"n must be 1 when using greedy sampling, got {n}.")
    return n


def _invalid(parameter: str, value: float, message: str) -> RequestError:
    return RequestError(f"{message} (parameter={parameter}, value={value})", param=parameter)
