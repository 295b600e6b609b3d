"""Parameters refuse bad values with the reason, when declared and when set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.parameter import Parameter

from dp_ros.bridge.parameters import declare
from dp_ros.errors import UserError


@pytest.fixture
def make_node(ros_domain: int) -> Iterator[Callable[..., Any]]:
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(**overrides: Any) -> Any:
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(rclpy.create_node("node", context=context, parameter_overrides=given))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def declare_all(node: Any) -> list[Any]:
    return [
        declare(node, "engine", "auto", "what runs the model", choices=("auto", "onnx")),
        declare(node, "margin_s", 0.01, "margin, s", low=0.0, high=1.0),
        declare(node, "threads", 1, "threads", low=1, high=64),
        declare(node, "mode", False, "mode", read_only=True),
    ]


def test_defaults_and_overrides_come_back_and_are_described(make_node: Callable[..., Any]) -> None:
    assert declare_all(make_node()) == ["auto", 0.01, 1, False]
    node = make_node(engine="onnx", margin_s=0.5)
    assert declare_all(node) == ["onnx", 0.5, 1, False]
    descriptor = node.describe_parameter("margin_s")
    assert descriptor.description == "margin, s"
    assert (descriptor.floating_point_range[0].from_value, descriptor.floating_point_range[0].to_value) == (
        0,
        1,
    )
    assert node.describe_parameter("engine").additional_constraints == "one of: auto, onnx"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"engine": "cuda"}, "parameter engine: got 'cuda', expected one of auto, onnx"),
        ({"margin_s": 2.0}, "parameter margin_s: expected float from 0 to 1"),
        ({"margin_s": "soon"}, "parameter margin_s: expected float"),
        ({"threads": 0}, "parameter threads: expected int from 1 to 64"),
    ],
)
def test_a_bad_value_at_start_is_refused(
    make_node: Callable[..., Any], override: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        declare_all(make_node(**override))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("engine", "cuda", "got 'cuda', expected one of auto, onnx"),
        ("margin_s", 2.0, "margin_s"),
        ("mode", True, "read-only"),
    ],
)
def test_a_bad_value_set_later_is_refused_and_changes_nothing(
    make_node: Callable[..., Any], name: str, value: Any, words: str
) -> None:
    node = make_node()
    declare_all(node)
    before = node.get_parameter(name).value
    result = node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful
    assert words in result.reason
    assert node.get_parameter(name).value == before
    assert node.set_parameters([Parameter("engine", value="onnx")])[0].successful
