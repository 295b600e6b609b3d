"""Node parameters with descriptors: declared in one line each, checked by rclpy, described to `ros2 param`.

Easy to get wrong: a range in a descriptor is enforced when a parameter is set, also from the command line,
and the error names the parameter but not the remedy; `declare` therefore puts units and range into the text
as well.
"""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)

from dp_ros.errors import UserError


def declare(
    node: Any,
    name: str,
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    read_only: bool = False,
) -> Any:
    """Declare a parameter and return its value.

    Args:
        node: an rclpy node.
        name: of the parameter.
        default: value where none is given; its type is the parameter's.
        description: what it is, with units.
        low: smallest allowed number.
        high: largest allowed number.
        choices: allowed words.
        read_only: whether it can be set at start-up only.

    Raises:
        UserError: if the value given is none of the choices, out of range or of another type.
    """
    descriptor = ParameterDescriptor(description=description, read_only=read_only)
    if choices:
        descriptor.additional_constraints = "one of: " + ", ".join(choices)
    if low is not None and high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))
            ]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    try:
        value = node.declare_parameter(name, default, descriptor).value
    except Exception as error:  # rclpy raises one of several types for range and type
        bounds = f" from {low:g} to {high:g}" if low is not None and high is not None else ""
        raise UserError(
            f"parameter {name}: expected {type(default).__name__}{bounds} ({description}); {error}"
        ) from None
    if choices:
        refusal = _refusal(name, value, choices)
        if refusal:
            raise UserError(f"{refusal} ({description})")

        def refuse_others(parameters: list[Any]) -> SetParametersResult:
            reasons = [_refusal(name, p.value, choices) for p in parameters if p.name == name]
            return SetParametersResult(successful=not any(reasons), reason="".join(reasons))

        node.add_on_set_parameters_callback(refuse_others)
    return value


def _refusal(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Why a word cannot be the parameter's value; empty if it can."""
    return (
        "" if value in choices else f"parameter {name}: got {value!r}, expected one of {', '.join(choices)}"
    )
