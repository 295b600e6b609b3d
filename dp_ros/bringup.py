"""Which nodes run together, under which names and with which parameters; written once.

`ros2 launch dp_ros NAME.launch.py`, `dp-ros up NAME` and the commands and tests that start nodes all build
on the functions here. The signature of such a function is the list of its launch arguments: names, types
and defaults are read from it, descriptions from `DESCRIPTIONS`, and a function is public by being in
`BRINGUPS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dp_ros.errors import UserError
from dp_ros.paths import share_dir

Parameter = bool | int | float | str | list[str] | list[float]


@dataclass(frozen=True)
class NodeSpec:
    """One node: a process of its own, running `dp_ros/nodes/<executable>.py`."""

    name: str
    executable: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    namespace: str = ""
    remappings: Mapping[str, str] = field(default_factory=dict)
    required: bool = True  # when it ends, everything is stopped


@dataclass(frozen=True)
class Bringup:
    """Nodes that are started and stopped together."""

    name: str
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True)
class Argument:
    """A launch argument; `default` is None for one that must be given."""

    name: str
    type: type
    default: Parameter | None
    description: str

    def parse(self, text: str) -> Parameter:
        """Value of a text typed by a person; raises UserError naming what is allowed."""
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise UserError(f"{self.name}:={text}: expected true or false ({self.description})")
            return text.lower() == "true"
        if self.type in (int, float):
            try:
                return self.type(text)
            except ValueError:
                kind = "a whole number" if self.type is int else "a number"
                raise UserError(f"{self.name}:={text}: expected {kind} ({self.description})") from None
        return text


DESCRIPTIONS = {
    "task": "task file, or the name of one in config/tasks",
    "model": "model folder, or the name of one in models",
    "engine": "what runs the model: auto, native, onnx or torch; dp-ros bench --help has the others",
    "mode": "how chunks follow one another: replace, ensemble, rtc, or model (as its manifest says)",
    "infer_every": "steps between two inferences; 0: back to back, -1: as the model says",
    "dry_run": "do everything but send commands",
    "deadman_required": "command only while /policy/deadman says true",
    "operator_topic": "on which the operator commands and takes over",
    "lockstep": "the simulation waits for every participant, so that a run is reproducible",
    "seed": "seed of the simulation's first start state",
    "image_size_px": "width and height of the simulated camera",
    "autostart": "configure and activate the policy node at once",
    "operator": "who demonstrates: expert",
    "out": "zarr store that episodes are appended to",
    "noise_px": "noise on the targets that the simulated robot executes, not on those recorded, px",
    "push_px_per_step": "speed of the expert while pushing",
    "travel_px_per_step": "speed of the expert between pushes",
    "host": "address on which the console is served; one that other machines reach needs a token",
    "port": "port of the console",
    "token": "secret in the console's address, ?token=..., 12 characters or more",
    "sim": "start the simulated robot, too",
    "operator_name": "who demonstrates, saved with each episode",
    "instruction": "what the robot is to do, saved with each episode",
    "use_sim_time": "take time from /clock",
    "raw_streams": "streams recorded at their own rates, too: none, vectors or all",
    "jpeg_quality": "pictures are recorded as JPEG of this quality, 1 to 100; 0: lossless",
    "video_crf": "pictures are recorded as video of this constant rate factor, 1 (best) to 51; 0: not",
    "rerun": "where rerun shows it: spawn opens a viewer, HOST:PORT is one that runs, FILE.rrd keeps it",
}


def pusht_demo(
    *,
    task: str = "pusht_state",
    model: str = "pusht_state",
    engine: str = "auto",
    lockstep: bool = True,
    seed: int = 100000,
    image_size_px: int = 96,
    autostart: bool = True,
) -> Bringup:
    """The simulated robot, and the policy that drives it."""
    nodes = (
        _pusht(task, lockstep, ["policy"], seed, image_size_px),
        _policy(task, model, engine=engine, lockstep=lockstep, use_sim_time=lockstep, autostart=autostart),
    )
    return Bringup("pusht_demo", nodes)


def collect(
    *,
    out: str,
    task: str = "pusht_state",
    operator: str = "expert",
    lockstep: bool = True,
    seed: int = 100000,
    image_size_px: int = 96,
    noise_px: float = 3.0,
    push_px_per_step: float = 6.0,
    travel_px_per_step: float = 15.0,
) -> Bringup:
    """The simulated robot, an operator who demonstrates, and the recorder."""
    shared: dict[str, Parameter] = {"task": _task(task), "lockstep": lockstep, "use_sim_time": lockstep}
    expert: dict[str, Parameter] = {
        "operator": operator,
        "listeners": ["pusht", "recorder"],
        "push_px_per_step": push_px_per_step,
        "travel_px_per_step": travel_px_per_step,
    }
    robot = _pusht(task, lockstep, ["teleop", "recorder"], seed, image_size_px)
    nodes = (
        replace(robot, parameters={**robot.parameters, "actuation_noise_px": noise_px}),
        NodeSpec("teleop", "teleop_node", {**shared, **expert}),
        NodeSpec("recorder", "recorder_node", {**shared, "out": str(Path(out).absolute())}),
    )
    return Bringup("collect", nodes)


def console(
    *,
    out: str,
    task: str = "pusht_image",
    model: str = "pusht_image",
    sim: bool = True,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str = "",
    operator_name: str = "",
    instruction: str = "",
    raw_streams: str = "none",
    jpeg_quality: int = 0,
    video_crf: int = 0,
    seed: int = 100000,
    image_size_px: int = 96,
    use_sim_time: bool = False,
) -> Bringup:
    """The web console with a recorder and, unless model is empty, a policy; for the simulated robot or a real one."""
    shared: dict[str, Parameter] = {"task": _task(task), "use_sim_time": use_sim_time}
    texts: dict[str, Parameter] = {"operator_name": operator_name, "instruction": instruction}
    texts |= {"raw_streams": raw_streams, "jpeg_quality": jpeg_quality, "video_crf": video_crf}
    served: dict[str, Parameter] = {"host": host, "port": port, "token": token}
    if sim:
        served |= {"plane": [0.0, 0.0, 512.0, 512.0], "speed": [300.0, 300.0]}
    nodes = [
        NodeSpec("recorder", "recorder_node", {**shared, "out": str(Path(out).absolute()), **texts}),
        NodeSpec("console", "console_node", {**shared, **served}),
    ]
    if sim:
        nodes.insert(0, _pusht(task, False, ["policy"], seed, image_size_px))
    if model:
        nodes.append(_policy(task, model, use_sim_time=use_sim_time, autostart=True))
    return Bringup("console", tuple(nodes))


def pusht_alone(*, task: str, seed: int) -> Bringup:
    """The simulated robot in real time and nothing else; for commands that need one."""
    return Bringup("pusht", (_pusht(task, False, ["policy"], seed, 96),))


def policy(
    *,
    model: str,
    task: str = "",
    engine: str = "auto",
    mode: str = "model",
    infer_every: int = -1,
    dry_run: bool = False,
    deadman_required: bool = False,
    operator_topic: str = "~/operator",
    autostart: bool = True,
    use_sim_time: bool = False,
) -> Bringup:
    """The policy node alone, for a robot that is already running. An empty task means the model's own."""
    node = _policy(
        task,
        model,
        engine=engine,
        lockstep=False,
        use_sim_time=use_sim_time,
        autostart=autostart,
        mode=mode,
        infer_every=infer_every,
        dry_run=dry_run,
        deadman_required=deadman_required,
        operator_topic=operator_topic,
    )
    return Bringup("policy", (node,))


def view(*, task: str, rerun: str = "spawn", use_sim_time: bool = False) -> Bringup:
    """What a robot that runs already sees and does, in the rerun viewer."""
    return Bringup("view", (_view(_task(task), rerun, use_sim_time),))


def with_view(bringup: Bringup, rerun: str) -> Bringup:
    """The same with a node that shows it in the rerun viewer.

    Raises:
        UserError: if none of its nodes names a task.
    """
    given = [node.parameters for node in bringup.nodes]
    task = next((str(p["task"]) for p in given if p.get("task")), "")
    if not task:
        raise UserError(f"--rerun: {bringup.name} needs task:=..., which says what there is to show")
    sim_time = any(parameters.get("use_sim_time") for parameters in given)
    node = replace(_view(task, rerun, sim_time), required=False)
    return replace(bringup, nodes=(*bringup.nodes, node))


BRINGUPS: dict[str, Callable[..., Bringup]] = {
    "pusht_demo": pusht_demo,
    "collect": collect,
    "console": console,
    "policy": policy,
    "view": view,
}


def find(name: str) -> Callable[..., Bringup]:
    """The bring-up function of a name; raises UserError listing the names there are."""
    if name not in BRINGUPS:
        near = difflib.get_close_matches(name, BRINGUPS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no bring-up {name!r}, expected one of {', '.join(BRINGUPS)}{hint}")
    return BRINGUPS[name]


def arguments_of(name: str) -> list[Argument]:
    """Launch arguments of a bring-up, in the order of its signature."""
    types = {"bool": bool, "int": int, "float": float, "str": str}
    return [
        Argument(
            parameter.name,
            types[parameter.annotation],
            None if parameter.default is inspect.Parameter.empty else parameter.default,
            DESCRIPTIONS[parameter.name],
        )
        for parameter in inspect.signature(find(name)).parameters.values()
    ]


def from_text(name: str, given: Mapping[str, str]) -> Bringup:
    """Bring-up of a name with arguments as typed by a person (`seed:=7`).

    Raises:
        UserError: unknown name or argument, a value of the wrong type, or a required argument missing.
    """
    arguments = {argument.name: argument for argument in arguments_of(name)}
    for key in given:
        if key not in arguments:
            near = difflib.get_close_matches(key, arguments, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{name} has no argument {key!r}, expected some of {', '.join(arguments)}{hint}")
    for argument in arguments.values():
        if argument.default is None and argument.name not in given:
            raise UserError(f"{name} needs {argument.name}:=... ({argument.description})")
    values: dict[str, Any] = {key: arguments[key].parse(text) for key, text in given.items()}
    return find(name)(**values)


def model_folder(name: str) -> str:
    """Absolute path of a model folder given by path or by the name of one in `models/`.

    Raises:
        UserError: neither is there.
    """
    shipped = share_dir() / "models"
    for folder in (Path(name), shipped / name):
        if (folder / "manifest.json").is_file():
            return str(folder.absolute())
    names = ", ".join(sorted(path.parent.name for path in shipped.glob("*/manifest.json"))) or "none"
    raise UserError(f"model {name}: no such folder with a manifest.json; models that come along: {names}")


def _policy(task: str, model: str, **parameters: Parameter) -> NodeSpec:
    return NodeSpec(
        "policy", "policy_node", {"task": _task(task), "model": model_folder(model), **parameters}
    )


def _view(task: str, rerun: str, use_sim_time: bool) -> NodeSpec:
    where = str(Path(rerun).absolute()) if rerun.endswith(".rrd") else rerun
    return NodeSpec("view", "view_node", {"task": task, "rerun": where, "use_sim_time": use_sim_time})


def _task(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).is_file() else name


def _pusht(task: str, lockstep: bool, participants: list[str], seed: int, image_size_px: int) -> NodeSpec:
    parameters: dict[str, Parameter] = {
        "task": _task(task),
        "lockstep": lockstep,
        "lockstep_participants": participants,
        "seed": seed,
        "image_size_px": image_size_px,
        "use_sim_time": False,  # it is the clock
    }
    return NodeSpec("pusht", "pusht_node", parameters)
