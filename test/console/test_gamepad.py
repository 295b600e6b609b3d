"""What of a gamepad drives what."""

from __future__ import annotations

import pytest

from dp_ros.console.gamepad import default_mapping, parse_mapping

ARM = ["x", "y", "z", "rx", "ry", "rz", "lift", "gripper"]


def test_sticks_then_d_pad_then_triggers_and_a_button_for_the_gripper() -> None:
    mapping = default_mapping(ARM, {"gripper"}, y_down=False)
    assert mapping == [
        *("axis0", "-axis1", "axis2", "-axis3"),
        *("button14/button15", "button13/button12", "button6/button7", "toggle0"),
    ]
    controls = parse_mapping(mapping, ARM, {"gripper"})
    assert controls[1] == {"name": "y", "words": "left stick ↑↓", "axis": 1, "sign": -1}
    assert controls[6] == {"name": "lift", "words": "LT RT", "less": 6, "more": 7}
    assert controls[7] == {"name": "gripper", "words": "A closes and opens", "toggle": 0}


def test_in_a_picture_y_goes_down_as_the_axis_does() -> None:
    assert default_mapping(["x", "y"], set(), y_down=True) == ["axis0", "axis1"]


def test_what_a_gamepad_has_no_room_for_is_driven_by_nothing() -> None:
    many = [f"j{i}" for i in range(9)]
    mapping = default_mapping(many, set(), y_down=False)
    assert mapping[7:] == ["none", "none"]
    assert parse_mapping(mapping, many, set())[8]["words"] == "nothing"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("axis", "got 'axis' for x, expected axis0"),
        ("axis99", "expected a number below 32"),
        ("toggle0", "only a gripper can be toggled"),
        ("button4/button5", "the shoulder buttons 4 and 5 are held to drive"),
    ],
)
def test_what_is_no_control_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_mapping([text], ["x"], set())


def test_one_control_is_needed_for_each_command() -> None:
    with pytest.raises(ValueError, match="got 1 values, expected 2, one for each of x, y"):
        parse_mapping(["axis0"], ["x", "y"], set())
