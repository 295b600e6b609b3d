"""Which stick, trigger or button of a gamepad drives which command, in the browser's standard layout.

https://www.w3.org/TR/gamepad/#remapping: four axes, of two sticks; D-pad, triggers and the rest are buttons, triggers
with values from 0 to 1. Easy to get wrong: an axis is positive downwards, so a stick that is pushed away is negative.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

#: Held to drive; they can do nothing else.
SHOULDERS = (4, 5)
_MOST = 32  # axes or buttons
_AXIS_NAMES = ("left stick ←→", "left stick ↑↓", "right stick ←→", "right stick ↑↓")
_BUTTON_NAMES = (
    *("A", "B", "X", "Y", "LB", "RB", "LT", "RT", "Back", "Start", "L3", "R3"),
    *("D-pad ↑", "D-pad ↓", "D-pad ←", "D-pad →"),
)
_AXIS = re.compile(r"(-?)axis(\d{1,2})")
_PAIR = re.compile(r"button(\d{1,2})/button(\d{1,2})")
_TOGGLE = re.compile(r"toggle(\d{1,2})")
#: What drives the first commands, the second, ..., that are no grippers; and the same where y goes down.
_MOVES = ("axis0", "-axis1", "axis2", "-axis3", "button14/button15", "button13/button12", "button6/button7")
_TOGGLES = ("toggle0", "toggle1", "toggle2", "toggle3")


def default_mapping(names: Sequence[str], grippers: Collection[str], *, y_down: bool) -> list[str]:
    """What drives each command: sticks, then D-pad, then triggers; grippers by A, B, X and Y.

    Args:
        names: of what a device drives.
        grippers: those of them that open and close.
        y_down: whether the second command grows downwards, as in a picture.
    """
    moves, toggles = iter(_MOVES), iter(_TOGGLES)
    mapping = [next(toggles if name in grippers else moves, "none") for name in names]
    return [text.lstrip("-") for text in mapping] if y_down else mapping


def parse_mapping(
    texts: Sequence[str], names: Sequence[str], grippers: Collection[str]
) -> list[dict[str, Any]]:
    """A mapping as the page takes it: `name`, `words`, and `axis` and `sign`, `less` and `more`, or `toggle`.

    Args:
        texts: one for each of `names`: `axis0`, `-axis1` (turned round), `button14/button15` (less, more), `toggle0`
            (a button that closes and opens a gripper) or `none`.
        names: of what a device drives.
        grippers: those of them that open and close.

    Raises:
        ValueError: another number of texts, one that is none of these, or a shoulder button.
    """
    if len(texts) != len(names):
        raise ValueError(
            f"got {len(texts)} values, expected {len(names)}, one for each of {', '.join(names)}"
        )
    return [
        {"name": name, **_control(text, name, name in grippers)}
        for text, name in zip(texts, names, strict=True)
    ]


def _control(text: str, name: str, gripper: bool) -> dict[str, Any]:
    if text == "none":
        return {"words": "nothing"}
    if found := _AXIS.fullmatch(text):
        axis = _number(found[2], text)
        return {"words": _named(_AXIS_NAMES, axis, "axis"), "axis": axis, "sign": -1 if found[1] else 1}
    if found := _PAIR.fullmatch(text):
        less, more = _button(found[1], text), _button(found[2], text)
        other = _named(_BUTTON_NAMES, more, "button").removeprefix("D-pad ")
        words = f"{_named(_BUTTON_NAMES, less, 'button')} {other}"
        return {"words": words, "less": less, "more": more}
    if (found := _TOGGLE.fullmatch(text)) and gripper:
        button = _button(found[1], text)
        return {"words": f"{_named(_BUTTON_NAMES, button, 'button')} closes and opens", "toggle": button}
    if found:
        raise ValueError(f"{text} for {name}: only a gripper can be toggled")
    raise ValueError(
        f"got {text!r} for {name}, expected axis0, -axis1, button14/button15, toggle0 for a gripper, or none"
    )


def _number(digits: str, text: str) -> int:
    if int(digits) >= _MOST:
        raise ValueError(f"{text}: expected a number below {_MOST}")
    return int(digits)


def _button(digits: str, text: str) -> int:
    button = _number(digits, text)
    if button in SHOULDERS:
        raise ValueError(f"{text}: the shoulder buttons {SHOULDERS[0]} and {SHOULDERS[1]} are held to drive")
    return button


def _named(names: Sequence[str], index: int, kind: str) -> str:
    return names[index] if index < len(names) else f"{kind} {index}"
