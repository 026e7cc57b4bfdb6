"""Values from a file or a command line, checked against a model that names each field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from prefill_router.errors import InputError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)

PRIVATE = {"key", "base_url", "api_key", "extra", "system"}
"""Fields that a key may have been written into by mistake: an error does not repeat them."""


def field(default: Any, description: str, **limits: Any) -> Any:
    """Return a field that explains itself, to readers of notebooks and of the commands' help."""
    return Field(default, description=description, **limits)


class Settings(BaseModel):
    """Fields by name, none besides them; ``yes`` and ``no`` are no numbers, nor is infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("yes, no, true and false are no value here; quote what is text")
        return value

    @classmethod
    def explained(cls) -> list[tuple[str, str, str]]:
        """Return name, default and meaning of every field."""
        rows = []
        for name, about in cls.model_fields.items():
            default = "" if about.is_required() else about.default
            shown = "" if default in (None, [], {}) else str(default)
            rows.append((name, shown, about.description))
        return rows


def checked(
    model: type[Model],
    values: Mapping[str, Any],
    source: str,
    given: Mapping[str, Any] | None = None,
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
    given : mapping, optional
        Values that override those, from ``-p`` on the command line.

    Raises
    ------
    InputError
        If a name is unknown or a value cannot be used; names each one.
    """
    given = given or {}
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        said = (
            f"{'-p' if item['loc'][0] in given else source}: {_complaint(model, item['loc'], item)}"
            for item in error.errors()
        )
        raise InputError("; ".join(dict.fromkeys(said))) from None


def _complaint(model: type[BaseModel], place: tuple, item: Mapping[str, Any]) -> str:
    indices = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place[1:])
    # What is no identifier names a branch of a union.
    name = str(place[0]) + "".join(i for i in indices if i[0] == "[" or i[1:].isidentifier())
    if item["type"] == "extra_forbidden":
        hint = did_you_mean(name, model.model_fields) if len(place) == 1 else ""
        return f"{name}: no such parameter.{hint}"
    given = item["input"]
    private = PRIVATE & ({*place} | ({*given} if isinstance(given, Mapping) else set()))
    return f"{name}: {item['msg']}" + ("" if private else f" (given: {given!r:.80})")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that is a plain mapping.

    Raises
    ------
    InputError
        If there is no such file, or it is not a plain mapping; see `plain_yaml`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not plain YAML: {error}.") from None
    values = plain_yaml(text, str(path))
    if not isinstance(values, dict | None):
        raise InputError(f"{path} must be a mapping of parameter names to values.")
    return values or {}


def plain_yaml(text: str, source: str) -> Any:
    """Return what a YAML text says; `source` names it in errors, which do not repeat the text.

    Raises
    ------
    InputError
        If it is not YAML, builds objects by tags, or names a key twice, of which YAML would take
        the last.
    """
    try:
        return _PlainLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{source} is not plain YAML: {error.problem}{at}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist
        raise InputError(f"{source} is not plain YAML: {error}.") from None


class _PlainLoader(yaml.SafeLoader):
    """Refuses keys that stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"{key.value!r:.80} stands there twice, the second time"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)
