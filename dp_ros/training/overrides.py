"""Values of a recipe from the command line: `training.seed=42 network.widths=[64,128]`.

A name that does not exist is refused with the nearest one that does and with what it takes; so is a value of the
wrong type. Easy to get wrong: which names exist depends on `network.kind`, and that is the recipe's: another kind of
network has other values altogether, so it is chosen with `--config` and not here.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dp_ros.errors import UserError
from dp_ros.inference.manifest import explain

_KIND = "kind"
_PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Values by dotted name from words such as `training.seed=42`; values are YAML.

    Raises:
        UserError: if a word is not `name=value`, or names a value twice.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"{word!r}: expected NAME=VALUE, such as training.seed=42")
        if name in overrides:
            raise UserError(f"{name}: is given twice; leave one out")
        try:
            overrides[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{word!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    return overrides


def apply_overrides(
    model: type[BaseModel], data: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """`data` with values replaced by dotted name.

    Args:
        model: what the result is going to be checked against.
        data: sections of a recipe.
        overrides: values by dotted name.

    Raises:
        UserError: if a name is none of the recipe's.
    """
    result = _copy(data)
    fields = fields_of(model, data)
    for name, value in overrides.items():
        *sections, last = name.split(".")
        if name not in fields:
            raise UserError(_no_such_name(name, fields, data))
        old = _value_at(data, name)
        if last == _KIND and old is not None and value != old:
            raise UserError(
                f"{name}={value}: the recipe is one for {old}, whose values mean nothing to another kind; "
                "choose another recipe with --config"
            )
        if isinstance(value, bool) and bool not in _members(fields[name].annotation):
            raise UserError(f"{name}: got {str(value).lower()}, expected {expectation(fields[name])}")
        place = result
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return result


def fields_of(
    model: type[BaseModel], data: Mapping[str, Any] | None, prefix: str = ""
) -> dict[str, FieldInfo]:
    """Every value that `model` has, by dotted name; of several kinds of a section those of the kind in `data`."""
    found: dict[str, FieldInfo] = {}
    for name, info in model.model_fields.items():
        part = (data or {}).get(name)
        section = _section(info.annotation, part)
        if section is None:
            found[prefix + name] = info
        else:
            found |= fields_of(section, part if isinstance(part, Mapping) else None, f"{prefix}{name}.")
    return found


def expectation(info: FieldInfo) -> str:
    """What a value takes, in words: `a whole number, at least 1`."""
    bounds = [
        f"{words} {getattr(rule, key)}"
        for rule in info.metadata
        for key, words in _BOUNDS.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([_type_words(info.annotation), *bounds])


def explain_values(error: ValidationError, model: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """One line for each value that is not allowed: what was given, what it takes."""
    fields = fields_of(model, data)
    lines = []
    for problem, line in zip(error.errors(), explain(error), strict=True):
        parts = [str(part) for part in problem["loc"]]
        spelled = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        untagged = [".".join([parts[0], *parts[2:n]]) for n in range(len(parts), 2, -1)]
        name = next((name for name in (*spelled, *untagged) if name in fields), None)
        if name in untagged:
            line = line.replace(f"{parts[0]}.{parts[1]}.", f"{parts[0]}.", 1)
        if name is not None and problem["type"] not in ("missing", "value_error"):
            line += f"; {name} takes {expectation(fields[name])}"
        elif problem["type"] == "extra_forbidden":
            line = _no_such_name(".".join(parts), fields, data)
        lines.append(line)
    return lines


def _no_such_name(name: str, fields: Mapping[str, FieldInfo], data: Mapping[str, Any]) -> str:
    near = _nearest(name, fields)
    if near is None:
        section = name.split(".", 1)[0] + "."
        others = [key for key in fields if key.startswith(section)] or list(fields)
        return f"{name}: unknown key; the recipe has {', '.join(others)}"
    now = _value_at(data, near)
    takes = expectation(fields[near]) + ("" if now is None else f"; now {_in_yaml(now)}")
    return f"{name}: unknown key; did you mean {near} ({takes})?"


def _nearest(name: str, fields: Mapping[str, FieldInfo]) -> str | None:
    """The field whose own name is most alike, in the same section if there are two; None if none is alike."""
    section, _, own = name.rpartition(".")

    def likeness(key: str) -> float:
        other_section, _, other = key.rpartition(".")
        return difflib.SequenceMatcher(None, own, other).ratio() + 0.05 * (section == other_section)

    near = max(fields, key=likeness)
    return (
        near
        if likeness(near) >= 0.65
        else next(iter(difflib.get_close_matches(name, fields, cutoff=0.85)), None)
    )


def _in_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _value_at(data: Mapping[str, Any], name: str) -> Any:
    value: Any = data
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}


def _members(annotation: Any) -> list[Any]:
    """Parts of a union; of anything else, itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in _members(member)]
    return [annotation]


def _section(annotation: Any, part: Any) -> type[BaseModel] | None:
    """The model of a section, by its kind where there are several; None for a plain value."""
    models = [one for one in _members(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    kind = part.get(_KIND) if isinstance(part, Mapping) else None
    for model in models:
        field = model.model_fields.get(_KIND)
        if field is not None and kind in get_args(field.annotation):
            return model
    return models[0] if models else None


def _type_words(annotation: Any) -> str:
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join("null" if one is type(None) else _type_words(one) for one in members)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (tuple, list):
        inner = _type_words(parts[0]).removeprefix("a ") + "s"
        return (
            f"a list of {inner}" if origin is list or parts[-1] is ... else f"a list of {len(parts)} {inner}"
        )
    return _PLAIN.get(annotation, "a value")
