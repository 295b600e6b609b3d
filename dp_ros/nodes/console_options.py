"""Parameters of the console: declared once, read when it starts.

Easy to get wrong: a token is needed wherever other machines reach the console, which `console.access` checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dp_ros.bridge.parameters import declare
from dp_ros.console.gamepad import default_mapping, parse_mapping
from dp_ros.errors import UserError
from dp_ros.runtime.operator import drive_names
from dp_ros.task import TaskSpec, load_task


@dataclass(frozen=True)
class ConsoleOptions:
    """What a console was told.

    Attributes:
        task: that is shown.
        host: served on. port: 0 takes a free one. token: secret. names: under which this machine is addressed.
        recording: that is reviewed; empty: the recorder's.
        policy: its node. recorder: its node.
        takeover_topic: on which every command is repeated; empty: nowhere.
        plane: [left, top, right, bottom] of a picture in units of the action; None: no picture shows the action.
        plane_camera: index of that camera among the task's.
        gamepad: `parse_mapping`.
    """

    task: TaskSpec
    host: str
    port: int
    token: str
    names: list[str]
    recording: str
    policy: str
    recorder: str
    takeover_topic: str
    plane: list[float] | None
    plane_camera: int
    gamepad: list[dict[str, Any]]


def declared_options(node: Any) -> ConsoleOptions:
    """Declare every parameter and read it.

    Raises:
        UserError: if one is wrong, or they do not go together.
    """

    def fixed(name: str, default: Any, description: str, **limits: Any) -> Any:
        return declare(node, name, default, description, read_only=True, **limits)

    task = load_task(fixed("task", "pusht_image", "task file or name"))
    policy: str = fixed("policy", "/policy", "policy node").rstrip("/")
    plane = _plane(fixed, task)
    return ConsoleOptions(
        task=task,
        host=fixed("host", "127.0.0.1", "address to serve on; one that others reach needs a token"),
        port=fixed("port", 8080, "port to serve on; 0: a free one", low=0, high=65535),
        token=fixed("token", "", "secret in the address that is opened, ?token=..., 12 characters or more"),
        names=[
            name
            for name in fixed("names", [""], "names under which this machine is addressed, e.g. [lab3]")
            if name
        ],
        recording=fixed("recording", "", "recording that is reviewed; empty: the recorder's"),
        policy=policy,
        recorder=fixed("recorder", "/recorder", "recorder node").rstrip("/"),
        takeover_topic=fixed(
            "takeover_topic",
            f"{policy}/operator",
            "on which every command is repeated, so that the policy yields; empty: nowhere",
        ),
        plane=plane,
        plane_camera=_plane_camera(fixed, task),
        gamepad=_gamepad(fixed, task, y_down=plane is not None),
    )


def _plane(fixed: Any, task: TaskSpec) -> list[float] | None:
    plane = list(
        fixed(
            "plane",
            [0.0, 0.0, 0.0, 0.0],
            "x and y of a picture's upper left and lower right corner in units of the action, where it "
            "commands a point in the picture; all 0: it does not",
        )
    )
    if not any(plane):
        return None
    if len(plane) != 4 or plane[0] == plane[2] or plane[1] == plane[3]:
        raise UserError(f"parameter plane: got {plane}, expected [left, top, right, bottom]")
    if task.action.command_dim != 2 or task.action.is_velocity:
        raise UserError(
            f"parameter plane: task {task.name} commands {', '.join(task.action.command_names)}, "
            "expected the two coordinates of a point"
        )
    return plane


def _plane_camera(fixed: Any, task: TaskSpec) -> int:
    cameras = [key for key, spec in task.observations.items() if spec.is_image]
    name: str = fixed("plane_camera", "", "camera whose picture the plane is; empty: the first")
    if name and name not in cameras:
        raise UserError(f"parameter plane_camera: got {name!r}, expected one of {', '.join(cameras)}")
    return cameras.index(name) if name else 0


def _gamepad(fixed: Any, task: TaskSpec, *, y_down: bool) -> list[dict[str, Any]]:
    names, grippers = drive_names(task.action), {gripper.name for gripper in task.action.grippers}
    given = list(
        fixed(
            "gamepad",
            [""],
            f"what of a gamepad drives {', '.join(names)}: axis0, -axis1, button14/button15, toggle0 for a "
            "gripper, or none; empty: sticks, D-pad and triggers in turn, grippers by A, B, X, Y",
        )
    )
    if given in ([""], []):
        given = default_mapping(names, grippers, y_down=y_down)
    try:
        return parse_mapping(given, names, grippers)
    except ValueError as error:
        raise UserError(f"parameter gamepad: {error}") from None
