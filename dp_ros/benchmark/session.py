"""Runs the real nodes, with probes in them, in real time on the simulated robot.

For `stages` the robot takes trajectories and pushes the T; for `ticks` the policy's task is changed to setpoints,
which this process takes in the robot's place while the robot stands still and shows itself. Both run inference back
to back. Easy to get wrong: what a probe wrote is there only when its node has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from std_msgs.msg import Float64MultiArray
from visualization_msgs.msg import MarkerArray

from dp_ros import bringup
from dp_ros.benchmark.probe import FOLDER_VARIABLE
from dp_ros.benchmark.report import TickResult
from dp_ros.benchmark.stages import Inference, StageTimes
from dp_ros.benchmark.ticks import SETPOINT_TOPIC, busy_share, setpoint_task, tick_result
from dp_ros.bridge.pusht_client import PushTClient
from dp_ros.bridge.qos import reliable_qos
from dp_ros.bringup import Bringup, NodeSpec, Parameter
from dp_ros.errors import UserError
from dp_ros.processes import command_of, running
from dp_ros.task import TaskSpec

#: Of the simulated robot's joint states and pictures: more callbacks than its policy needs.
SENSORS: Mapping[str, Parameter] = {"joint_rate_hz": 50, "camera_rate_hz": 25}
BACK_TO_BACK: Mapping[str, Parameter] = {"infer_every": 0}
#: Alternatives for the markers are sampled whenever no action is waited for, so that the model never rests.
WITHOUT_PAUSE: Mapping[str, Parameter] = {**BACK_TO_BACK, "marker_samples": 8}


def probed_command(node: NodeSpec) -> list[str]:
    """Command line of a node with its probe."""
    command = command_of(node)
    return [
        sys.executable,
        "-m",
        "dp_ros.benchmark.probe",
        node.executable,
        *command[command.index("--ros-args") :],
    ]


@contextlib.contextmanager
def session(
    model: str, task: TaskSpec, engine: str, folder: Path, policy_parameters: Mapping[str, Parameter]
) -> Iterator[PushTClient]:
    """Simulated robot and policy in real time, and a client that is not connected yet.

    On leaving the nodes end and their records are in `folder`.

    Args:
        model: model folder.
        task: of the policy; the robot shows what it observes.
        engine: of the policy node.
        folder: for the records, logs and the task file.
        policy_parameters: parameters of the policy node that are to differ from their defaults.
    """
    file = folder / "task.yaml"
    file.write_text(yaml.safe_dump(task.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    sizes = [spec.shape[0] for spec in task.observations.values() if spec.is_image]
    nodes = bringup.pusht_demo(
        task=str(file), model=model, engine=engine, lockstep=False, image_size_px=max(sizes, default=96)
    ).nodes
    changes = {"pusht": {**SENSORS, "task": "pusht_state"}, "policy": policy_parameters}
    description = Bringup(
        "bench",
        tuple(replace(n, parameters={**n.parameters, **changes.get(n.name, {})}) for n in nodes),
    )
    environment = {**os.environ, FOLDER_VARIABLE: str(folder)}
    with (
        running(description, log_dir=folder, environment=environment, command=probed_command) as processes,
        PushTClient(task, processes.check) as client,
    ):
        yield client


def measure_stages(model: str, task: TaskSpec, engine: str, seconds: float, seed: int) -> StageTimes:
    """Let the policy push the T for some time, over as many episodes as it takes.

    Raises:
        UserError: if a node ends, or the policy stops for another reason than time.
    """
    with tempfile.TemporaryDirectory(prefix="dp_ros_bench_") as name:
        folder = Path(name)
        with session(model, task, engine, folder, BACK_TO_BACK) as client:
            client.connect()
            end_s = time.monotonic() + seconds
            while (left_s := end_s - time.monotonic()) > 0:
                client.reset(seed)
                _act(client, seed, min(left_s, 30.0))
                seed += 1
        return stage_times(folder, task)


def measure_ticks(
    model: str, task: TaskSpec, engine: str, rate_hz: float, seconds: float
) -> tuple[TickResult, float]:
    """Let the policy send setpoints for some time.

    Returns:
        How punctual they were, and the share of the time in which an inference was under way.

    Raises:
        UserError: if a node ends, the policy stops for another reason than time, or no setpoints come.
    """
    with tempfile.TemporaryDirectory(prefix="dp_ros_bench_") as name:
        folder, received = Path(name), 0

        def count(_: Any) -> None:
            nonlocal received
            received += 1

        with session(model, setpoint_task(task, rate_hz), engine, folder, WITHOUT_PAUSE) as client:
            setpoints = client.node.create_subscription(
                Float64MultiArray, SETPOINT_TOPIC, count, reliable_qos(1000)
            )
            client.node.create_subscription(MarkerArray, "/policy/markers", lambda _: None, reliable_qos())
            client.connect()
            client.wait(lambda: setpoints.get_publisher_count() > 0, "the policy's setpoints to be announced")
            _act(client, 0, seconds)
        records = _records(folder, "policy_node")
        return tick_result(records["ticks"], received, records["priority"][-1]), busy_share(
            records["inferences"]
        )


def _act(client: PushTClient, seed: int, time_limit_s: float) -> Any:
    """One goal, until its time is over; returns its result."""
    handle = client.send_goal(seed=seed, time_limit_s=time_limit_s)
    result = client.wait_for_result(handle, time_limit_s + 30.0).result
    if result.reason != "TIME_LIMIT":
        raise UserError(f"the policy stopped, {result.reason}: {result.message}")
    return result


def stage_times(folder: Path, task: TaskSpec) -> StageTimes:
    """What the probes of a session wrote, by capture time."""
    policy, robot = _records(folder, "policy_node"), _records(folder, "pusht_node")
    latency_ns = round(task.observations[task.anchor].latency_s * 1e9)
    return StageTimes(
        received={stamp - latency_ns: ns for key, stamp, ns in policy["received"] if key == task.anchor},
        inferences=[Inference(*times) for times in policy["inferences"]],
        published=[(ns, stamp) for ns, stamp in policy["published"]],
        taken={stamp: ns for stamp, ns in robot["taken"]},
    )


def _records(folder: Path, executable: str) -> Any:
    path = folder / f"{executable}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{executable} ended without {path.name}: it was killed, or its probe failed"
        ) from None
