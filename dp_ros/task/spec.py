"""The task: what a policy observes, what it commands, and how both lie in time.

One YAML file (`config/tasks/*.yaml`) states topics, fields, shapes, rates, latencies and limits once; the
nodes, the recorder, the trainer and the evaluator read these facts from it and from nowhere else. Easy to get
wrong: `shape` is what is recorded and what the policy sees, after `resize` and before `crop`, and `horizon`
counts from the oldest observation, not from now.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dp_ros.paths import share_dir
from dp_ros.task.action import ActionSpec
from dp_ros.task.observation import ObservationSpec
from dp_ros.task.problems import KEY, Strict, TaskError, explain, fail, show

#: What the topics of a derived task begin with, until somebody fills them in.
FILL_IN = "/fill_in"


def is_to_fill_in(topic: str) -> bool:
    """Whether a topic is one of a derived task that nobody has filled in."""
    return topic.startswith(f"{FILL_IN}/")


def _commanded(action: ActionSpec) -> str:
    return "velocity" if action.is_velocity else "position"


class TaskSpec(Strict):
    """A whole task. Made by `load_task` or `TaskSpec.from_dict`."""

    name: str = Field(pattern=KEY, description="lower-case name")
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

    def require_filled_in(self) -> None:
        """Raise TaskError if a topic of a derived task was not filled in."""
        topics = {f"observations.{key}": spec.topic for key, spec in self.observations.items()}
        topics["action"] = self.action.topic
        for key, topic in topics.items():
            if is_to_fill_in(topic):
                raise TaskError(
                    f"{self._source or self.name}: {key}.topic is {topic}, which an import left to be filled in; write "
                    "your robot's topics, types, names and limits into the task file and give it as the parameter task"
                )

    def require_same_policy(self, model_task: TaskSpec) -> None:
        """Check that a model made for `model_task` can run this task.

        Topics, message types, latencies and limits may differ, and a trajectory may become setpoints. What each value
        is may not: a stream's fields and names in their order, the action's names, positions or velocities. Where an
        import derived the model's task (its topic is to be filled in), nobody knows what the values of a stream are, or
        whether positions are commanded: there this task alone says so.

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
                parts = ["shape", "encoding", "crop", "rotation"]
                parts += [] if is_to_fill_in(other.topic) else ["fields", "names"]
                pairs += [
                    (f"observations.{key}.{part}", getattr(spec, part), getattr(other, part))
                    for part in parts
                ]
        pairs += [
            (f"action.{part}", getattr(self.action, part), getattr(model_task.action, part))
            for part in ("shape", "names", "rotation", "relative", "demonstrated")
        ]
        if not is_to_fill_in(model_task.action.topic):
            pairs.append(("action.command", _commanded(self.action), _commanded(model_task.action)))
        for key, ours, theirs in pairs:
            if ours != theirs:
                raise TaskError(
                    f"{self._source or self.name}: {key} is {show(ours)}, the model was made for {show(theirs)}; "
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
                f"{source}: got {show(data)}, expected a YAML mapping with the keys "
                + ", ".join(cls.model_fields)
            )
        try:
            task = cls.model_validate(data)
        except ValidationError as error:
            raise TaskError(f"{source}: " + "\n  ".join(explain(error, cls))) from None
        task._source = source
        return task

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        needed = self.n_obs_steps + self.n_action_steps - 1
        if self.horizon < needed:
            fail(
                "horizon",
                self.horizon,
                f"at least n_obs_steps + n_action_steps - 1 = {needed}; "
                "raise horizon or lower n_action_steps",
            )
        self._check_state()
        topics: dict[str, str] = {}
        for key, spec in self.observations.items():
            if not key.isidentifier() or key != key.lower() or key == "action":
                fail(f"observations.{key}", key, "a lower-case name other than action")
            if topics.setdefault(spec.topic, spec.type) != spec.type:
                fail(
                    f"observations.{key}.type",
                    spec.type,
                    f"{topics[spec.topic]}, as the other stream on {spec.topic}",
                )
        return self

    def _check_state(self) -> None:
        """`action.state` must be a stream that measures every commanded value but the grippers."""
        action = self.action
        if action.state is None:
            return
        spec = self.observations.get(action.state)
        if spec is None:
            known = list(self.observations)
            fail("action.state", action.state, f"one of {', '.join(known)}", known)
        measured = spec.joint_positions
        if action.is_pose:
            if not spec.is_pose:
                fail(
                    "action.state",
                    action.state,
                    "a PoseStamped stream with all fields of position, orientation",
                )
            return
        grippers = set(action.gripper_indices)
        absent = [n for i, n in enumerate(action.names) if i not in grippers and n not in measured]
        if absent:
            fail(
                "action.state", action.state, f"a JointState stream with the position of {', '.join(absent)}"
            )


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
