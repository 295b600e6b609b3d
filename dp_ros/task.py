"""The task: what a policy observes, what it commands, and how both lie in time.

One YAML file (`config/tasks/*.yaml`) states topics, fields, shapes, rates, latencies and limits once; the
nodes, the recorder, the trainer and the evaluator read these facts from it and from nowhere else. Easy to get
wrong: `shape` is what is recorded and what the policy sees, after `resize` and before `crop`, and `horizon`
counts from the oldest observation, not from now.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from dp_ros.errors import UserError
from dp_ros.paths import share_dir

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
_TOPIC = r"^(/|~/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$"
_KEY = r"^[a-z][a-z0-9_]*$"


class TaskError(UserError):
    """A task file that cannot be used; the message names file, key, what was given and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ObservationSpec(_Strict):
    """One observation stream: where it comes from and what the policy sees of it."""

    topic: str = Field(pattern=_TOPIC, description="ROS topic")
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

    @property
    def is_image(self) -> bool:
        """Whether the stream carries pictures."""
        return self.type in IMAGE_TYPES

    @property
    def dim(self) -> int:
        """Number of values of one sample."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _consistent(self) -> ObservationSpec:
        if self.is_image:
            self._check_image()
        elif self.type in VECTOR_FIELDS:
            self._check_vector()
        else:
            known = [*IMAGE_TYPES, *VECTOR_FIELDS]
            _fail("type", self.type, f"one of {', '.join(known)} (all carry a header stamp)", known)
        return self

    def _check_image(self) -> None:
        if self.encoding is None:
            _fail("encoding", None, f"one of {', '.join(ENCODING_CHANNELS)}")
        if self.encoding not in ENCODING_CHANNELS:
            known = list(ENCODING_CHANNELS)
            _fail("encoding", self.encoding, f"one of {', '.join(known)}", known)
        for key in ("fields", "names"):
            if getattr(self, key):
                _fail(key, getattr(self, key), "nothing: an image stream has no fields or names")
        if len(self.shape) != 3 or min(self.shape) < 1:
            _fail("shape", list(self.shape), "[height, width, channels], all at least 1")
        channels = ENCODING_CHANNELS[str(self.encoding)]
        if self.shape[2] != channels:
            _fail("shape", list(self.shape), f"{channels} channel(s), as encoding {self.encoding} has")
        if self.resize is not None and tuple(self.resize) != self.shape[:2]:
            _fail("resize", list(self.resize), f"the height and width of shape, {list(self.shape[:2])}")
        if self.crop is not None and not all(
            0 < c <= s for c, s in zip(self.crop, self.shape[:2], strict=True)
        ):
            _fail("crop", list(self.crop), f"[height, width] of at most {list(self.shape[:2])}")
        if self.alignment == "interpolate":
            _fail("alignment", "interpolate", "asof or nearest: pictures cannot be interpolated")

    def _check_vector(self) -> None:
        for key in ("encoding", "resize", "crop"):
            if getattr(self, key) is not None:
                _fail(key, getattr(self, key), f"nothing: {self.type} is not an image")
        allowed = list(VECTOR_FIELDS[self.type])
        if not self.fields:
            _fail("fields", self.fields, f"at least one of {', '.join(allowed)}")
        for field in self.fields:
            if field not in allowed:
                _fail("fields", field, f"one of {', '.join(allowed)} for {self.type}", allowed)
        if len(self.shape) != 1 or self.shape[0] < 1:
            _fail("shape", list(self.shape), "[n], the number of values, at least 1")
        n = len(self.fields)
        if self.type == "sensor_msgs/msg/JointState":
            if not self.names:
                _fail("names", self.names, "the joint names to take, in order")
            _check_names("names", self.names)
            n *= len(self.names)
        elif self.names:
            _fail("names", self.names, f"nothing: {self.type} has no joint names")
        if self.type in ARRAY_TYPES:
            if self.shape[0] % n:
                _fail("shape", list(self.shape), f"a multiple of the {n} field(s)")
        elif self.shape[0] != n:
            _fail("shape", list(self.shape), f"[{n}], fields times names")


class Range(_Strict):
    """Lowest and highest allowed value of each action dimension."""

    min: list[float]
    max: list[float]


class Limits(_Strict):
    """What may leave the policy node; `position` is required, because a robot has ends."""

    position: Range
    velocity: list[float] | None = Field(default=None, description="largest speed of each dimension, units/s")


class ActionSpec(_Strict):
    """What the policy commands."""

    topic: str = Field(pattern=_TOPIC, description="ROS topic")
    type: Literal["trajectory_msgs/msg/JointTrajectory"] = Field(description="message type")
    output: Literal["trajectory"] = Field(description="kind of output")
    names: list[str] = Field(min_length=1, description="joint names, in the order of the values")
    shape: tuple[int] = Field(description="[n], the number of values of one action")
    limits: Limits

    @property
    def dim(self) -> int:
        """Number of values of one action."""
        return self.shape[0]

    @model_validator(mode="after")
    def _consistent(self) -> ActionSpec:
        _check_names("names", self.names)
        if self.shape[0] != len(self.names):
            _fail("shape", list(self.shape), f"[{len(self.names)}], one value for each of names")
        for key, values in (
            ("limits.position.min", self.limits.position.min),
            ("limits.position.max", self.limits.position.max),
            ("limits.velocity", self.limits.velocity),
        ):
            if values is not None and len(values) != self.dim:
                _fail(key, values, f"{self.dim} value(s), one for each of names")
        for name, low, high in zip(
            self.names, self.limits.position.min, self.limits.position.max, strict=True
        ):
            if not low < high:
                _fail("limits.position", {"min": low, "max": high}, f"min below max for {name}")
        if self.limits.velocity is not None and min(self.limits.velocity) <= 0:
            _fail("limits.velocity", self.limits.velocity, "values above 0")
        return self


class TaskSpec(_Strict):
    """A whole task. Made by `load_task` or `TaskSpec.from_dict`."""

    name: str = Field(pattern=_KEY, description="lower-case name")
    description: str = ""
    rate_hz: float = Field(gt=0.0, le=1000.0, description="rate of the observation grid and of the actions")
    n_obs_steps: int = Field(ge=1, le=64, description="observations given to the policy")
    horizon: int = Field(ge=1, le=1024, description="actions predicted, from the oldest observation on")
    n_action_steps: int = Field(ge=1, le=1024, description="actions executed before the next prediction")
    observations: dict[str, ObservationSpec] = Field(min_length=1)
    action: ActionSpec
    _source: str = PrivateAttr(default="")

    @property
    def dt_ns(self) -> int:
        """Time between two steps, nanoseconds."""
        return round(1e9 / self.rate_hz)

    @property
    def anchor(self) -> str:
        """Stream that the observation grid is anchored on: the first camera, else the first stream."""
        images = [key for key, spec in self.observations.items() if spec.is_image]
        return images[0] if images else next(iter(self.observations))

    def digest(self) -> str:
        """Hash of everything in the task but its description; equal tasks have equal digests."""
        facts = self.model_dump(mode="json", exclude={"description"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def require_same_policy(self, model_task: TaskSpec) -> None:
        """Check that a model made for `model_task` can run this task: topics, latencies and limits may differ.

        Raises:
            TaskError: naming the first key in which what the policy sees or commands differs.
        """
        pairs: list[tuple[str, Any, Any]] = [
            (key, getattr(self, key), getattr(model_task, key))
            for key in ("rate_hz", "n_obs_steps", "horizon", "n_action_steps")
        ]
        pairs.append(("observations", sorted(self.observations), sorted(model_task.observations)))
        for key, spec in self.observations.items():
            if key in model_task.observations:
                other = model_task.observations[key]
                pairs += [
                    (f"observations.{key}.{part}", getattr(spec, part), getattr(other, part))
                    for part in ("shape", "encoding", "crop")
                ]
        pairs += [
            (f"action.{part}", getattr(self.action, part), getattr(model_task.action, part))
            for part in ("shape", "names")
        ]
        for key, ours, theirs in pairs:
            if ours != theirs:
                raise TaskError(
                    f"{self._source or self.name}: {key} is {_show(ours)}, the model was made for {_show(theirs)}; "
                    "use the task that the model was trained with, or another model"
                )

    @classmethod
    def from_dict(cls, data: Any, source: str = "task") -> TaskSpec:
        """Check a parsed task.

        Raises:
            TaskError: naming `source`, the key, what was given and what is allowed.
        """
        if not isinstance(data, dict):
            raise TaskError(
                f"{source}: got {_show(data)}, expected a YAML mapping with the keys "
                + ", ".join(cls.model_fields)
            )
        try:
            task = cls.model_validate(data)
        except ValidationError as error:
            raise TaskError(f"{source}: " + "\n  ".join(_explain(error, data))) from None
        task._source = source
        return task

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        needed = self.n_obs_steps + self.n_action_steps - 1
        if self.horizon < needed:
            _fail(
                "horizon",
                self.horizon,
                f"at least n_obs_steps + n_action_steps - 1 = {needed}; "
                "raise horizon or lower n_action_steps",
            )
        topics: dict[str, str] = {}
        for key, spec in self.observations.items():
            if not key.isidentifier() or key != key.lower() or key == "action":
                _fail(f"observations.{key}", key, "a lower-case name other than action")
            if topics.setdefault(spec.topic, spec.type) != spec.type:
                _fail(
                    f"observations.{key}.type",
                    spec.type,
                    f"{topics[spec.topic]}, as the other stream on {spec.topic}",
                )
        return self


def load_task(path_or_name: str | Path) -> TaskSpec:
    """Read a task file.

    Args:
        path_or_name: a file, or the name of one in `config/tasks` (`pusht_state`).

    Raises:
        TaskError: if there is no such file, it is not YAML, or a key is wrong.
    """
    path = Path(path_or_name)
    shipped = share_dir() / "config" / "tasks"
    if not path.is_file() and path.suffix == "" and (shipped / f"{path}.yaml").is_file():
        path = shipped / f"{path}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise TaskError(f"task {path_or_name}: {reason}; expected a YAML file or one of: {names}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise TaskError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return TaskSpec.from_dict(data, source=str(path))


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, str | int | float | bool):
                seen.add(key)
        return super().construct_mapping(node, deep)


class _KeyProblem(ValueError):
    """A consistency problem: key relative to the model that found it."""

    def __init__(self, key: str, given: Any, allowed: str, known: list[str] | None = None) -> None:
        super().__init__(key)
        self.key, self.given, self.allowed, self.known = key, given, allowed, known


def _fail(key: str, given: Any, allowed: str, known: list[str] | None = None) -> typing.NoReturn:
    raise _KeyProblem(key, given, allowed, known)


def _check_names(key: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        _fail(key, names, f"each name once; {', '.join(doubles)} is there more than once")


def _explain(error: ValidationError, data: Any) -> list[str]:
    """One line for each problem: key, what was given, what is allowed."""
    lines = []
    for problem in error.errors():
        where = [str(part) for part in problem["loc"]]
        given, kind = problem["input"], problem["type"]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, _KeyProblem):
            key = ".".join([*where, cause.key])
            hint = _nearest(str(cause.given), cause.known or [])
            given_text = "nothing" if cause.given is None or cause.given == [] else _show(cause.given)
            lines.append(f"{key}: got {given_text}, expected {cause.allowed}{hint}")
        elif kind == "missing":
            info = _field(problem["loc"])
            about = f" ({info.description})" if info is not None and info.description else ""
            lines.append(f"{'.'.join(where)}: is missing{about}; add it")
        elif kind == "extra_forbidden":
            model = _model(problem["loc"][:-1])
            known = list(model.model_fields) if model is not None else []
            hint = _nearest(where[-1], known)
            lines.append(f"{'.'.join(where)}: unknown key, expected one of {', '.join(known)}{hint}")
        else:
            info = _field(problem["loc"])
            about = f" ({info.description})" if info is not None and info.description else ""
            wanted = problem["msg"].replace("Input should", "should")
            lines.append(f"{'.'.join(where)}: got {_show(given)}, {wanted[0].lower()}{wanted[1:]}{about}")
    return lines


def _model(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Model class that a location in the task leads to, if it leads to one."""
    annotation: Any = TaskSpec
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


def _field(loc: tuple[int | str, ...]) -> Any:
    """Field description of the innermost named key of a location, or None."""
    named = tuple(part for part in loc if isinstance(part, str))
    model = _model(named[:-1])
    return model.model_fields.get(named[-1]) if model is not None and named else None


def _strip_optional(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(annotation) if a is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _nearest(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
