"""Values from a file or a command line, checked against a model that names each field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from prefill_router.errors import InputError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)

LONGEST = 2**20
"""Bytes of a file of settings: nobody writes more by hand."""
DEEPEST = 20
PRIVATE = ("key", "base_url", "api_key", "extra", "system")
"""Fields that a key may have been written into by mistake: an error does not repeat them."""


class Settings(BaseModel):
    """Fields by name, none besides them; ``yes`` and ``no`` are no numbers, nor is infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("yes, no, true and false are no value here; quote what is text")
        return value


def listed(value: Any) -> Any:
    """Return the list that a text (``"a, b"``, ``"[a, b]"``) or a single number stands for.

    Anything else is returned as it is.

    Raises
    ------
    ValueError
        If the text begins like a list and is none.
    """
    if type(value) is int:
        return [value]
    if not isinstance(value, str):
        return value
    if not value.strip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError("not a list: write '[a, b]' or 'a, b'") from None


Layers = Annotated[
    Literal["all", "upper"] | Annotated[list[NonNegativeInt], Field(min_length=1)],
    BeforeValidator(lambda value: value if value in ("all", "upper") else listed(value)),
]
"""Layers of an encoder: all, the upper half, or those of a list."""


def checked(
    model: type[Model],
    values: Mapping[str, Any],
    source: str,
    origins: Mapping[str, str] | None = None,
) -> Model:
    """Return validated values.

    Parameters
    ----------
    model : type
        What they must be.
    values : mapping
        Names and values; what is absent takes its default.
    source : str
        Where they come from, for the error message.
    origins : mapping of str to str, optional
        Where those come from, by name, that come from elsewhere.

    Raises
    ------
    InputError
        If a name is unknown or a value cannot be used; names each one.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        complaints: dict[str, list[str]] = {}
        for item in error.errors():
            place = item["loc"] or ("",)
            complaint = _complaint(model, place, item)
            origin = (origins or {}).get(str(place[0]), source)
            complaints.setdefault(origin, []).append(complaint)
        raise InputError(
            "; ".join(f"{o}: " + "; ".join(dict.fromkeys(said)) for o, said in complaints.items())
        ) from None


def _complaint(model: type[BaseModel], place: tuple, item: Mapping[str, Any]) -> str:
    name = str(place[0])
    for part in place[1:]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part.isidentifier():  # else it names a branch of a union
            name += f".{part}"
    if item["type"] == "extra_forbidden":
        hint = did_you_mean(name, model.model_fields) if len(place) == 1 else ""
        return f"{name}: no such parameter.{hint}"
    given = item["input"]
    private = any(part in PRIVATE for part in place)
    private |= isinstance(given, Mapping) and not given.keys().isdisjoint(PRIVATE)
    return f"{name}: {item['msg']}" + (f" (given: {given!r:.80})" if not private else "")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that is a plain mapping.

    Raises
    ------
    InputError
        If there is no such file, it is too long, or it is not a plain mapping: tags that would
        build objects are refused, and so are deep nesting, and aliases, with which a short file
        can grow without end.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LONGEST:
            raise InputError(f"{path} is longer than {LONGEST:,} bytes: no file of settings.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not plain YAML: {error}") from None
    values = plain_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a mapping of parameter names to values.")
    return values


def plain_yaml(text: str, source: str) -> Any:
    """Return what a YAML text says; `source` names it in errors, which do not repeat the text.

    Raises
    ------
    InputError
        If it is not YAML, builds objects, uses aliases, nests deeply, or names a key twice.
    """
    try:
        _check_events(text, source)
        _check_keys(yaml.compose(text, yaml.SafeLoader), source)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source} is not plain YAML: {error.problem}{at}.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise InputError(f"{source} is not plain YAML: {error}.") from None


def _check_events(text: str, source: str) -> None:
    """Refuse aliases and deep nesting before anything is built; the parser would take for ever."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(
                f"{source} uses aliases (*name), which are not read; write values out."
            )
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"{source} is not plain YAML: it is nested more than {DEEPEST} deep.")


def _check_keys(node: yaml.Node | None, source: str) -> None:
    """Refuse a key that is there twice, of which YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"{source} names {key.value!r:.80} twice (line {line}); drop one.")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            _check_keys(value, source)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, source)
