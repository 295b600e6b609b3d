"""Puts one number into a task file and leaves every other character, comments and layout, as it was.

The place is found by the YAML parser's marks, not by pattern. Easy to get wrong: with anchors one text can
stand for several keys, so the result is parsed again, and refused if anything but the one value changed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dp_ros.errors import UserError


def with_number(text: str, keys: Sequence[str], value: float) -> str:
    """The text of a YAML file with the number at `keys` replaced, or inserted as the last key of its mapping.

    Raises:
        UserError: if the mapping that should hold it is not there, or is written in a way that cannot be changed
            without changing something else.
    """
    where = ".".join(keys)
    number = f"{value:g}" if value else "0.0"
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from None
    for key in keys[:-1]:
        node = _child(node, key)
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise UserError(f"there is no {'.'.join(keys[:-1])} to put {where} into")
    old = _child(node, keys[-1])
    if old is not None:
        space = " " if old.start_mark.index == old.end_mark.index else ""  # nothing stood after the colon
        changed = text[: old.start_mark.index] + space + number + text[old.end_mark.index :]
    elif node.flow_style:
        end = node.end_mark.index - 1  # its closing brace
        stop = len(text[:end].rstrip(" \n,"))
        changed = f"{text[:stop]}, {keys[-1]}: {number}{text[stop:]}"
    else:
        changed = _insert_line(text, node, f"{keys[-1]}: {number}")
    before, after = _plain(text), _plain(changed)
    inner = before
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = float(number)
    if after != before:
        raise UserError(
            f"{where} cannot be set to {number} without changing something else in the file (an anchor used twice?); "
            "set it by hand"
        )
    return changed


def _plain(text: str) -> Any:
    """What a YAML text says, every part of it an object of its own, whatever anchors it has."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _insert_line(text: str, mapping: yaml.MappingNode, line: str) -> str:
    """A line of its own after the mapping's last scalar or flow value on one line, with the same indentation."""
    ending = "\r\n" if "\r\n" in text else "\n"
    key = mapping.value[0][0]
    indented = f"{' ' * key.start_mark.column}{line}{ending}"
    simple = [(k, v) for k, v in mapping.value if v.start_mark.line == k.start_mark.line == v.end_mark.line]
    if not simple:
        place = text.rfind("\n", 0, key.start_mark.index) + 1
        return text[:place] + indented + text[place:]
    place = text.find("\n", simple[-1][1].end_mark.index) + 1
    if not place:
        return text + ending + indented
    return text[:place] + indented + text[place:]


def read_text(path: Path) -> str:
    """The content of a file with its line ends as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def replace_text(path: Path, text: str) -> None:
    """Put a new content in the place of a file's, which a reader sees before or after and never in between.

    Raises:
        UserError: if it cannot be written; the file is then as it was.
    """
    real = path.resolve()  # the file itself, not a link to it
    try:
        handle, partial = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, real.stat().st_mode)
            os.replace(partial, real)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
