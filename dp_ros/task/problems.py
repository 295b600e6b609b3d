"""Mistakes in a task file, told to the person who made them: file, key, what was given, what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dp_ros.errors import UserError
from dp_ros.task.later import WithLaterKeys

TOPIC = r"^(/|~/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$"
KEY = r"^[a-z][a-z0-9_]*$"


class TaskError(UserError):
    """A task file that cannot be used; the message names file, key, what was given and what is allowed."""


class Strict(WithLaterKeys):
    """A part of a task: no unknown keys, no changes, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KeyProblem(ValueError):
    """A consistency problem: key relative to the model that found it."""

    def __init__(self, key: str, given: Any, allowed: str, known: list[str] | None = None) -> None:
        super().__init__(key)
        self.key, self.given, self.allowed, self.known = key, given, allowed, known


def fail(key: str, given: Any, allowed: str, known: list[str] | None = None) -> typing.NoReturn:
    """Refuse the value of a key."""
    raise KeyProblem(key, given, allowed, known)


def check_names(key: str, names: list[str]) -> None:
    """Refuse names of which one is given twice."""
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        fail(key, names, f"each name once; {', '.join(doubles)} is there more than once")


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each problem in a `root`: key, what was given, what is allowed."""
    lines = []
    for problem in error.errors():
        where = [str(part) for part in problem["loc"]]
        given, kind = problem["input"], problem["type"]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, KeyProblem):
            key = ".".join([*where, cause.key])
            hint = _hint(str(cause.given), cause.known or [])
            given_text = "nothing" if cause.given is None or cause.given == [] else show(cause.given)
            lines.append(f"{key}: got {given_text}, expected {cause.allowed}{hint}")
        elif kind == "missing":
            info = _field(root, problem["loc"])
            about = f" ({info.description})" if info is not None and info.description else ""
            lines.append(f"{'.'.join(where)}: is missing{about}; add it")
        elif kind == "extra_forbidden":
            model = _model(root, problem["loc"][:-1])
            known = list(model.model_fields) if model is not None else []
            hint = _hint(where[-1], known)
            lines.append(f"{'.'.join(where)}: unknown key, expected one of {', '.join(known)}{hint}")
        else:
            info = _field(root, problem["loc"])
            about = f" ({info.description})" if info is not None and info.description else ""
            wanted = problem["msg"].replace("Input should", "should")
            lines.append(f"{'.'.join(where)}: got {show(given)}, {wanted[0].lower()}{wanted[1:]}{about}")
    return lines


def _model(root: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Model class that a location in the task leads to, if it leads to one."""
    annotation: Any = root
    for part in loc:
        annotation = _strip_optional(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = annotation.model_fields.get(str(part))
            annotation = info.annotation if info is not None else None
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        else:
            return None
    annotation = _strip_optional(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _field(root: type[BaseModel], loc: tuple[int | str, ...]) -> Any:
    """Field description of the innermost named key of a location, or None."""
    named = tuple(part for part in loc if isinstance(part, str))
    model = _model(root, named[:-1])
    return model.model_fields.get(named[-1]) if model is not None and named else None


def _strip_optional(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def nearest(word: str, known: list[str]) -> str | None:
    """The known name that a word is thought to mean: also one of which it is the last part, as of a message type."""
    last = [name for name in known if name.rpartition("/")[2] == word.rpartition("/")[2]]
    close = last if len(last) == 1 else difflib.get_close_matches(word, known, n=1)
    return close[0] if close else None


def _hint(word: str, known: list[str]) -> str:
    match = nearest(word, known)
    return f"; did you mean {match}?" if match is not None else ""


def show(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
