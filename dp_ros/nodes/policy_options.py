"""Parameters of the policy node: declared once, read when the node is configured.

A change takes effect with the next configuration, so that nothing changes under a goal. Easy to get wrong: the
default of mode and infer_every is what the model's manifest says, not a value of its own; and what does not go
together must be refused by `read_setup`, before the model in use is given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dp_ros.bridge.codecs import message_class
from dp_ros.bridge.parameters import declare
from dp_ros.bridge.ticker import WHERE_PERMITTED
from dp_ros.errors import UserError
from dp_ros.inference.engine import Engine
from dp_ros.inference.load import ENGINES
from dp_ros.inference.manifest import Manifest
from dp_ros.inference.placement import MEASURED, SPIN
from dp_ros.runtime.execution import MODES, Execution
from dp_ros.runtime.supervisor import SafetyOptions
from dp_ros.task import ActionSpec, TaskSpec, load_task

AS_MODEL = "model"
#: Name, default, highest value, description: times in seconds.
_TIMES = (
    (
        "stale_grace_s",
        1.0,
        60.0,
        "how long observations may be missing or stale before the goal is aborted, s",
    ),
    (
        "overdue_grace_s",
        3.0,
        60.0,
        "how long there may be nothing new to command before the goal is aborted, s",
    ),
    ("tracking_grace_s", 0.3, 60.0, "how long limits.tracking_error may be exceeded, s"),
    ("silent_grace_s", 2.0, 60.0, "how long nobody may listen to the commands before the goal is aborted, s"),
    ("clock_jump_s", 1.0, 60.0, "ROS time that gains this much on a steady clock at once has jumped, s"),
    ("clock_timeout_s", 5.0, 600.0, "wall time without progress of ROS time before the goal is aborted, s"),
    ("deadman_timeout_s", 0.3, 60.0, "how long a message of ~/deadman counts, s"),
    ("takeover_timeout_s", 0.5, 60.0, "how long a message of the operator counts, s"),
    (
        "soft_start_s",
        0.5,
        60.0,
        "time over which a goal's authority rises from 0 to 1, s; of positions it needs action.state",
    ),
)


def declare_parameters(node: Any) -> None:
    """Declare every parameter of the policy node; raises UserError."""
    declare(node, "task", "", "task file or name; empty: the model's own")
    declare(node, "model", "", "model folder with a manifest.json")
    declare(node, "engine", "auto", "what runs the model", choices=tuple(ENGINES))
    declare(
        node,
        "threads",
        0,
        "processor threads of one inference; 0: as many as a measurement at start-up finds worth it",
        low=0,
        high=64,
    )
    declare(
        node,
        "affinity",
        MEASURED,
        "processor cores of an inference, such as 2,3; any; auto: measured at start-up",
    )
    declare(
        node,
        "spin",
        MEASURED,
        "whether threads of an inference wait awake for one another; auto: measured at start-up",
        choices=tuple(SPIN),
    )
    declare(node, "num_inference_steps", 0, "DDIM steps; 0: as the model says", low=0, high=1000)
    declare(
        node,
        "lockstep",
        False,
        "take part in lockstep simulation: tick with /clock, infer while it stands still",
        read_only=True,
    )
    declare(
        node, "mode", AS_MODEL, "how chunks follow one another; model: as it says", choices=(AS_MODEL, *MODES)
    )
    declare(
        node,
        "infer_every",
        -1,
        "steps between two inferences; 0: back to back, -1: as the model says",
        low=-1,
        high=1024,
    )
    declare(node, "ensemble_decay", 0.01, "by how much newer predictions count less", low=0.0, high=10.0)
    declare(
        node,
        "margin_s",
        0.01,
        "time for a command's way to the robot; an action due sooner counts as late, s",
        low=0.0,
        high=1.0,
    )
    for name, default, high, description in _TIMES:
        low = 0.1 if name == "clock_timeout_s" else 0.0
        declare(node, name, default, description, low=low, high=high)
    declare(node, "require_controller", True, "hold the goal while nobody listens to the commands")
    declare(node, "deadman_required", False, "command only while ~/deadman says true")
    declare(node, "deadman_release", "hold", "what letting the deadman go does", choices=("hold", "abort"))
    declare(node, "operator_topic", "~/operator", "on which the operator commands; empty: nobody takes over")
    declare(node, "operator_type", "", "message type of operator_topic; empty: that of the action")
    declare(node, "takeover_then", "resume", "what follows a takeover", choices=("resume", "end"))
    declare(node, "dry_run", False, "do everything but send commands")
    declare(
        node,
        "realtime_priority",
        WHERE_PERMITTED,
        "SCHED_FIFO priority of the thread that sends setpoints; 0: none; -1: 50 where the user has the right",
        low=WHERE_PERMITTED,
        high=99,
    )
    declare(node, "marker_samples", 0, "alternatives sampled for ~/markers while idle", low=0, high=32)
    declare(node, "marker_frame", "map", "frame of ~/markers where the task names none")
    declare(node, "marker_width", 0.005, "width of the lines of ~/markers", low=1e-6, high=1000.0)


@dataclass(frozen=True)
class PolicyOptions:
    """The parameters that the node looks at between its configurations."""

    lockstep: bool
    margin_s: float
    clock_timeout_s: float
    require_controller: bool
    operator_topic: str
    operator_type: str
    dry_run: bool
    realtime_priority: int
    marker_samples: int
    marker_frame: str
    marker_width: float
    safety: SafetyOptions


@dataclass(frozen=True)
class PolicySetup:
    """Task, parameters and way of execution, which go together and with a model."""

    task: TaskSpec
    options: PolicyOptions
    execution: Execution


def read_setup(node: Any, engine: Engine) -> PolicySetup:
    """What task and parameters, as they are now, make of a model; sets nothing up.

    Raises:
        UserError: if they do not go together.
    """
    name = node.get_parameter("task").value
    task = load_task(name) if name else engine.task
    task.require_filled_in()
    task.require_same_policy(engine.task)
    options = read_options(node)
    if options.lockstep and task.action.output != "trajectory":
        raise UserError(f"task {task.name}: output is {task.action.output}; lockstep needs trajectory")
    execution = execution_of(node, engine.manifest)
    execution.require(task, engine.prefix)
    require_other_topic(node, options.operator_topic, task.action)
    if options.operator_topic and options.operator_type:
        message_class(options.operator_type)
    return PolicySetup(task, options, execution)


def read_options(node: Any) -> PolicyOptions:
    """The parameters as they are now."""

    def value(name: str) -> Any:
        return node.get_parameter(name).value

    names = [field for field in PolicyOptions.__dataclass_fields__ if field != "safety"]
    safety = SafetyOptions(**{name: value(name) for name in SafetyOptions.__dataclass_fields__})
    return PolicyOptions(**{name: value(name) for name in names}, safety=safety)


def execution_of(node: Any, manifest: Manifest) -> Execution:
    """How chunks are executed: by parameter, else as the model's manifest says."""
    mode, every = node.get_parameter("mode").value, node.get_parameter("infer_every").value
    said = manifest.execution
    if mode == AS_MODEL:
        mode = "replace" if said is None else said.mode
    if every < 0:
        every = None if said is None or mode != said.mode else said.infer_every
    warm_start = manifest.sampler.warm_start > 0
    return Execution(mode, every, node.get_parameter("ensemble_decay").value, warm_start)


def require_other_topic(node: Any, operator_topic: str, action: ActionSpec) -> None:
    """Check that the operator commands on none of the policy's own topics, or it would yield to itself.

    Raises:
        UserError: naming the topic.
    """
    own = [action.topic, *(gripper.topic for gripper in action.grippers if gripper.topic)]
    names = {node.resolve_topic_name(topic) for topic in own}
    if operator_topic and (name := node.resolve_topic_name(operator_topic)) in names:
        raise UserError(
            f"operator_topic: got {operator_topic} ({name}), expected another topic than those that the policy itself "
            "commands on, or it would yield to itself; let the operator's commands pass through one of their own"
        )
