"""Observation streams of a task: topic, message type, what is taken from it and what the policy sees."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dp_ros.task.problems import TOPIC, Strict, check_names, fail

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_POSE = tuple(f"{p}.{a}" for p, axes in (("position", "xyz"), ("orientation", "xyzw")) for a in axes)
_TWIST = tuple(f"{p}.{a}" for p in ("linear", "angular") for a in "xyz")
_WRENCH = tuple(f"{p}.{a}" for p in ("force", "torque") for a in "xyz")
#: Message types with a header stamp that can be an observation stream, and the fields that can be taken from each.
VECTOR_FIELDS: dict[str, tuple[str, ...]] = {
    "sensor_msgs/msg/JointState": ("position", "velocity", "effort"),
    "geometry_msgs/msg/PoseStamped": _POSE,
    "geometry_msgs/msg/PoseArray": _POSE,
    "geometry_msgs/msg/PointStamped": ("x", "y", "z"),
    "geometry_msgs/msg/TwistStamped": _TWIST,
    "geometry_msgs/msg/WrenchStamped": _WRENCH,
}
#: Message types whose fields are taken once for every element, so that the number of values varies.
ARRAY_TYPES = ("geometry_msgs/msg/PoseArray",)
#: Image encodings (sensor_msgs/image_encodings.hpp) the policy can be given, and their number of channels.
ENCODING_CHANNELS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "mono16": 1,
    "16UC1": 1,
    "32FC1": 1,
}


class ObservationSpec(Strict):
    """One observation stream: where it comes from and what the policy sees of it."""

    _later: ClassVar[frozenset[str]] = frozenset({"angles", "rotation", "freeze_after_s"})

    topic: str = Field(pattern=TOPIC, description="ROS topic")
    type: str = Field(description="message type with a header stamp, e.g. sensor_msgs/msg/JointState")
    fields: list[str] = Field(default_factory=list, description="fields to take, in this order")
    names: list[str] = Field(default_factory=list, description="joint names (JointState), in this order")
    shape: tuple[int, ...] = Field(description="[n] for vectors, [height, width, channels] for images")
    encoding: str | None = Field(default=None, description="image encoding that the policy gets")
    resize: tuple[int, int] | None = Field(default=None, description="[height, width] to scale to")
    crop: tuple[int, int] | None = Field(default=None, description="[height, width] given to the network")
    latency_s: float = Field(default=0.0, ge=0.0, le=5.0, description="header stamp minus this = capture")
    max_age_s: float = Field(gt=0.0, le=60.0, description="oldest sample that may be used at a grid time")
    alignment: Literal["asof", "nearest", "interpolate"] = Field(
        default="asof", description="which sample stands for a grid time"
    )
    angles: list[str] = Field(
        default_factory=list,
        description="names (or fields) whose position wraps at 2 pi: interpolated the short way",
    )
    rotation: Literal["quaternion", "axis_angle", "6d"] = Field(
        default="quaternion", description="orientation of a PoseStamped as the policy sees it"
    )
    freeze_after_s: float | None = Field(
        default=None, gt=0.0, le=600.0, description="an unchanged value for so long means a frozen sensor"
    )

    @property
    def is_image(self) -> bool:
        """Whether the stream carries pictures."""
        return self.type in IMAGE_TYPES

    @property
    def dim(self) -> int:
        """Number of values of one sample."""
        return math.prod(self.shape)

    @property
    def is_pose(self) -> bool:
        """Whether every sample is a whole pose: position and orientation."""
        return self.type == "geometry_msgs/msg/PoseStamped" and tuple(self.fields) == _POSE

    @property
    def joint_positions(self) -> dict[str, int]:
        """Joint name to the column that holds its position; empty for anything but a JointState."""
        if self.type != "sensor_msgs/msg/JointState" or "position" not in self.fields:
            return {}
        first = self.fields.index("position") * len(self.names)
        return {name: first + i for i, name in enumerate(self.names)}

    @model_validator(mode="after")
    def _consistent(self) -> ObservationSpec:
        if self.is_image:
            self._check_image()
        elif self.type in VECTOR_FIELDS:
            self._check_vector()
        else:
            known = [*IMAGE_TYPES, *VECTOR_FIELDS]
            fail("type", self.type, f"one of {', '.join(known)} (all carry a header stamp)", known)
        return self

    def _check_image(self) -> None:
        if self.encoding is None:
            fail("encoding", None, f"one of {', '.join(ENCODING_CHANNELS)}")
        if self.encoding not in ENCODING_CHANNELS:
            known = list(ENCODING_CHANNELS)
            fail("encoding", self.encoding, f"one of {', '.join(known)}", known)
        for key in ("fields", "names", "angles"):
            if getattr(self, key):
                fail(key, getattr(self, key), f"nothing: an image stream has no {key}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            fail("shape", list(self.shape), "[height, width, channels], all at least 1")
        channels = ENCODING_CHANNELS[str(self.encoding)]
        if self.shape[2] != channels:
            fail("shape", list(self.shape), f"{channels} channel(s), as encoding {self.encoding} has")
        if self.resize is not None and tuple(self.resize) != self.shape[:2]:
            fail("resize", list(self.resize), f"the height and width of shape, {list(self.shape[:2])}")
        if self.crop is not None and not all(
            0 < c <= s for c, s in zip(self.crop, self.shape[:2], strict=True)
        ):
            fail("crop", list(self.crop), f"[height, width] of at most {list(self.shape[:2])}")
        if self.alignment == "interpolate":
            fail("alignment", "interpolate", "asof or nearest: pictures cannot be interpolated")

    def _check_vector(self) -> None:
        for key in ("encoding", "resize", "crop"):
            if getattr(self, key) is not None:
                fail(key, getattr(self, key), f"nothing: {self.type} is not an image")
        allowed = list(VECTOR_FIELDS[self.type])
        if not self.fields:
            fail("fields", self.fields, f"at least one of {', '.join(allowed)}")
        for field in self.fields:
            if field not in allowed:
                fail("fields", field, f"one of {', '.join(allowed)} for {self.type}", allowed)
        if len(self.shape) != 1 or self.shape[0] < 1:
            fail("shape", list(self.shape), "[n], the number of values, at least 1")
        n = len(self.fields)
        if self.type == "sensor_msgs/msg/JointState":
            if not self.names:
                fail("names", self.names, "the joint names to take, in order")
            check_names("names", self.names)
            n *= len(self.names)
        elif self.names:
            fail("names", self.names, f"nothing: {self.type} has no joint names")
        if self.rotation != "quaternion":
            if not self.is_pose:
                fail("rotation", self.rotation, f"nothing, or fields: {list(_POSE)} of a PoseStamped")
            n += {"axis_angle": 3, "6d": 6}[self.rotation] - 4
        known = self.names or self.fields
        for angle in self.angles:
            if angle not in known:
                fail("angles", angle, f"one of {', '.join(known)}", known)
        if self.type in ARRAY_TYPES:
            if self.shape[0] % n:
                fail("shape", list(self.shape), f"a multiple of the {n} field(s)")
        elif self.shape[0] != n:
            fail("shape", list(self.shape), f"[{n}], fields times names")
