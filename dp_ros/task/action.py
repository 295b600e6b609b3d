"""What a policy commands: topic, kind of output, meaning of each value, and the limits it may not leave.

Two sets of names. `names` are the values the policy predicts, one each. `command_names` are the values that are
scheduled, limited and sent: the same, except that an orientation is always a quaternion there, whichever
representation the policy has. Easy to get wrong: limits count per command name.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dp_ros.task.problems import TOPIC, Strict, check_names, fail, nearest

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
JOINT_STATE = "sensor_msgs/msg/JointState"
POSE = "geometry_msgs/msg/PoseStamped"
TWIST = "geometry_msgs/msg/TwistStamped"
#: Message types of each kind of output.
OUTPUT_TYPES: dict[str, tuple[str, ...]] = {
    "trajectory": (TRAJECTORY,),
    "setpoint": (ARRAY, JOINT_STATE, POSE, TWIST),
}
_XYZ = ("x", "y", "z")
QUATERNION_NAMES = ("qx", "qy", "qz", "qw")
#: What the values of an orientation are called in each representation.
ROTATION_NAMES: dict[str, tuple[str, ...]] = {
    "quaternion": QUATERNION_NAMES,
    "axis_angle": ("rx", "ry", "rz"),
    "6d": ("r1", "r2", "r3", "r4", "r5", "r6"),
}
TWIST_NAMES = ("vx", "vy", "vz", "wx", "wy", "wz")


class Range(Strict):
    """Lowest and highest allowed value of each commanded value."""

    min: list[float]
    max: list[float]


class Box(Strict):
    """A region of space: a range of each named value."""

    names: list[str] = Field(min_length=1, description="commanded values that span the box, e.g. [x, y, z]")
    min: list[float]
    max: list[float]


class Limits(Strict):
    """What may leave the policy node; `position` is required, because a robot has ends.

    One value for each command name, in its units; a workspace box is `position` of a pose.
    """

    _later: ClassVar[frozenset[str]] = frozenset({"acceleration", "jerk", "tracking_error", "keep_out"})

    position: Range
    velocity: list[float] | None = Field(default=None, description="largest speed of each dimension, units/s")
    acceleration: list[float] | None = Field(default=None, description="largest acceleration, units/s^2")
    jerk: list[float] | None = Field(default=None, description="largest jerk, units/s^3")
    tracking_error: list[float] | None = Field(
        default=None, description="largest difference between commanded and measured, units"
    )
    keep_out: list[Box] = Field(default_factory=list, description="boxes that no command may enter")


class GripperSpec(Strict):
    """A value that is either open or closed, with hysteresis; it is never blended."""

    _later: ClassVar[frozenset[str]] = frozenset({"close_above", "open_below", "close_below", "open_above"})

    name: str = Field(description="which of names it is")
    close_above: float | None = Field(default=None, description="the policy's value above which it closes")
    open_below: float | None = Field(default=None, description="the policy's value below which it opens")
    close_below: float | None = Field(
        default=None, description="instead, where the value is an opening: below this it closes"
    )
    open_above: float | None = Field(default=None, description="with close_below: above this it opens")
    open: float = Field(description="what is sent to open it")
    closed: float = Field(description="what is sent to close it")
    topic: str | None = Field(
        default=None,
        pattern=TOPIC,
        description=f"topic of its own ({ARRAY}); without one it is part of the main message",
    )

    @property
    def closing_sign(self) -> int:
        """1 where a higher value closes, -1 where a higher value opens."""
        return -1 if self.close_below is not None else 1

    @property
    def thresholds(self) -> tuple[float, float]:
        """Below the first it opens, above the second it closes; of values times `closing_sign`."""
        if self.close_below is not None and self.open_above is not None:
            return -self.open_above, -self.close_below
        assert self.open_below is not None and self.close_above is not None
        return self.open_below, self.close_above


class ActionSpec(Strict):
    """What the policy commands."""

    _later: ClassVar[frozenset[str]] = frozenset(
        {"rate_hz", "command", "frame_id", "rotation", "relative", "state", "latency_s", "demonstrated"}
        | {"grippers"}
    )

    topic: str = Field(pattern=TOPIC, description="ROS topic")
    type: str = Field(description="message type")
    output: Literal["trajectory", "setpoint"] = Field(description="kind of output")
    rate_hz: float | None = Field(
        default=None, gt=0.0, le=1000.0, description="rate of setpoints: the controller's"
    )
    command: Literal["position", "velocity"] = Field(
        default="position", description="what a Float64MultiArray or JointState commands"
    )
    frame_id: str = Field(default="", description="frame of a pose or twist")
    names: list[str] = Field(min_length=1, description="joint names, in the order of the values")
    shape: tuple[int] = Field(description="[n], the number of values of one action")
    rotation: Literal["quaternion", "axis_angle", "6d"] = Field(
        default="quaternion", description="orientation among the policy's values of a pose"
    )
    relative: bool = Field(default=False, description="values count from the state at the newest observation")
    state: str | None = Field(default=None, description="observation stream that measures what is commanded")
    latency_s: float = Field(default=0.0, ge=0.0, le=5.0, description="how much later a command takes effect")
    demonstrated: Literal["commands", "motion"] = Field(
        default="commands",
        description="actions of the data: what was commanded, or where the robot then was; motion is commanded "
        "latency_s early",
    )
    grippers: list[GripperSpec] = Field(default_factory=list)
    limits: Limits

    @property
    def dim(self) -> int:
        """Number of values of one action, as the policy predicts it."""
        return self.shape[0]

    @property
    def is_pose(self) -> bool:
        """Whether a pose is commanded."""
        return self.type == POSE

    @property
    def is_velocity(self) -> bool:
        """Whether velocities are commanded, so that standing still is zero and not the last value."""
        return self.type == TWIST or self.command == "velocity"

    @property
    def command_names(self) -> list[str]:
        """What is scheduled and sent: `names`, with an orientation as a quaternion."""
        if not self.is_pose:
            return list(self.names)
        return [*_XYZ, *QUATERNION_NAMES, *(gripper.name for gripper in self.grippers)]

    @property
    def command_dim(self) -> int:
        """Number of values scheduled and sent."""
        return len(self.command_names)

    @property
    def gripper_indices(self) -> tuple[int, ...]:
        """Which command values are grippers."""
        grippers = {gripper.name for gripper in self.grippers}
        return tuple(i for i, name in enumerate(self.command_names) if name in grippers)

    @property
    def quaternion_indices(self) -> tuple[int, ...]:
        """Which command values are an orientation (x, y, z, w); empty where none is commanded."""
        return (3, 4, 5, 6) if self.is_pose else ()

    @model_validator(mode="after")
    def _consistent(self) -> ActionSpec:
        self._check_output()
        check_names("names", self.names)
        if self.shape[0] != len(self.names):
            fail("shape", list(self.shape), f"[{len(self.names)}], one value for each of names")
        self._check_grippers()
        self._check_layout()
        self._check_limits()
        return self

    def _check_output(self) -> None:
        types = OUTPUT_TYPES[self.output]
        if self.type not in types:
            allowed = f"one of {', '.join(types)} for output {self.output}"
            meant = nearest(self.type, [name for group in OUTPUT_TYPES.values() for name in group])
            if meant in types:
                fail("type", self.type, allowed, list(types))
            for output, group in OUTPUT_TYPES.items():
                if meant in group:
                    allowed += f", or output: {output}, which takes {meant}"
            fail("type", self.type, allowed)
        if self.output == "setpoint" and self.rate_hz is None:
            fail("rate_hz", None, "the rate at which the controller takes setpoints, e.g. 100")
        if self.output == "trajectory" and self.rate_hz is not None:
            fail("rate_hz", self.rate_hz, "nothing: a trajectory has points, not a rate")
        if self.command == "velocity" and self.type not in (ARRAY, JOINT_STATE):
            fail("command", "velocity", f"position: {self.type} says by itself what it commands")
        if self.frame_id and self.type not in (POSE, TWIST):
            fail("frame_id", self.frame_id, f"nothing: {self.type} commands no frame")
        if self.rotation != "quaternion" and not self.is_pose:
            fail("rotation", self.rotation, f"nothing: {self.type} has no orientation")
        if self.relative and (self.is_velocity or self.state is None):
            allowed = "false for velocities" if self.is_velocity else "state: the stream to count from"
            fail("relative", True, allowed)

    def _check_grippers(self) -> None:
        check_names("grippers", [gripper.name for gripper in self.grippers])
        for gripper in self.grippers:
            if gripper.name not in self.names:
                fail("grippers", gripper.name, f"one of {', '.join(self.names)}", self.names)
            _check_thresholds(gripper)
            if gripper.topic is None and self.type in (POSE, TWIST):
                fail("grippers", gripper.name, f"a topic of its own: {self.type} has no room for it")
            if gripper.topic == self.topic:
                fail("grippers", gripper.topic, f"a topic other than the action's for {gripper.name}")

    def _check_layout(self) -> None:
        """A pose or twist has its values in one order, grippers last."""
        grippers = [gripper.name for gripper in self.grippers]
        if self.is_pose:
            wanted = [*_XYZ, *ROTATION_NAMES[self.rotation], *grippers]
        elif self.type == TWIST:
            wanted = [*TWIST_NAMES, *grippers]
        else:
            return
        if self.names != wanted:
            fail("names", self.names, f"{wanted} for {self.type}")

    def _check_limits(self) -> None:
        limits, names = self.limits, self.command_names
        n = len(names)
        each = "one for each of names" if names == self.names else f"one for each of {', '.join(names)}"
        for key, values in (
            ("limits.position.min", limits.position.min),
            ("limits.position.max", limits.position.max),
            ("limits.velocity", limits.velocity),
            ("limits.acceleration", limits.acceleration),
            ("limits.jerk", limits.jerk),
            ("limits.tracking_error", limits.tracking_error),
        ):
            if values is not None and len(values) != n:
                fail(key, values, f"{n} value(s), {each}")
        for name, low, high in zip(names, limits.position.min, limits.position.max, strict=True):
            if not low < high:
                fail("limits.position", {"min": low, "max": high}, f"min below max for {name}")
        for key in ("velocity", "acceleration", "jerk", "tracking_error"):
            values = getattr(limits, key)
            if values is not None and min(values) <= 0:
                fail(f"limits.{key}", values, "values above 0")
        if limits.tracking_error is not None and self.is_velocity:
            fail("limits.tracking_error", limits.tracking_error, "nothing: of velocities it is not checked")
        if limits.tracking_error is not None and self.state is None:
            fail("limits.tracking_error", limits.tracking_error, "state: the stream that measures it")
        for box in limits.keep_out:
            for name in box.names:
                if name not in names:
                    fail("limits.keep_out.names", name, f"one of {', '.join(names)}", names)
            check_names("limits.keep_out.names", box.names)
            if not len(box.min) == len(box.max) == len(box.names):
                fail("limits.keep_out", {"min": box.min, "max": box.max}, "one min and max for each of names")
            if any(not low < high for low, high in zip(box.min, box.max, strict=True)):
                fail("limits.keep_out", {"min": box.min, "max": box.max}, "min below max")


def _check_thresholds(gripper: GripperSpec) -> None:
    """A gripper has one pair of thresholds, with room between them."""
    keys = ("close_above", "open_below", "close_below", "open_above")
    given = {key: value for key in keys if (value := getattr(gripper, key)) is not None}
    if set(given) == {"close_above", "open_below"}:
        if not given["open_below"] < given["close_above"]:
            fail("grippers", given, f"open_below below close_above for {gripper.name}")
    elif set(given) == {"close_below", "open_above"}:
        if not given["close_below"] < given["open_above"]:
            fail("grippers", given, f"close_below below open_above for {gripper.name}")
    else:
        fail(
            "grippers",
            given,
            f"close_above and open_below, or close_below and open_above, for {gripper.name}",
        )
