"""Runs a node with clocks at the places that `stages` and `ticks` ask about; the node itself is unchanged.

    python -m dp_ros.benchmark.probe policy_node --ros-args ...

Started in the place of a node by `session`. Each probe wraps a function of a room below the nodes, appends two
numbers to a list and calls it; when the node has ended they are written to `$DP_ROS_PROBE_DIR/<node>.json`. Easy to
get wrong: the wrapped functions run in several threads, for which appending to a list is safe.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "DP_ROS_PROBE_DIR"

#: Ticks that statistics are made of: 35 minutes at 500 Hz.
EVERY_TICK = 2**20

Records = dict[str, list[Any]]


def probe_policy_node(records: Records) -> None:
    """Note when samples arrive, inferences begin and end and trajectories go out, and how punctual ticks were."""
    from rclpy.publisher import Publisher
    from sensor_msgs.msg import Image
    from trajectory_msgs.msg import JointTrajectory

    from dp_ros.bridge import ticker
    from dp_ros.bridge.clock import to_ns
    from dp_ros.bridge.images import decode_image
    from dp_ros.bridge.qos import observation_qos
    from dp_ros.bridge.setpoint_process import SetpointProcess
    from dp_ros.inference import worker
    from dp_ros.nodes.policy_node import PolicyNode
    from dp_ros.runtime.controller import Controller
    from dp_ros.runtime.observation import ObservationBuffer

    received, inferences, published, ticks, priority = (
        records.setdefault(k, []) for k in ("received", "inferences", "published", "ticks", "priority")
    )

    tick_records: list[Any] = []
    acts = False
    ticker.REMEMBERED = EVERY_TICK

    def after_add(_: Any, key: str, header_stamp_ns: int, *rest: Any, **options: Any) -> None:
        received.append((key, header_stamp_ns, time.time_ns()))

    def after_publish(_: Any, message: Any) -> None:
        if isinstance(message, JointTrajectory):
            published.append((time.time_ns(), to_ns(message.header.stamp)))

    def after_process_start(found: Any, *_: Any, **__: Any) -> None:
        tick_records.append(found.record)
        priority.append(found.priority)

    def after_run_start(*_: Any, **__: Any) -> None:
        """Setpoints tick from configuration on; what counts is the time in which the policy acts."""
        nonlocal acts
        acts = True
        for found in tick_records:
            found.clear()

    def after_run_stop(_: Any) -> None:
        nonlocal acts
        if acts:
            ticks.extend(dataclasses.asdict(found.statistics()) for found in tick_records)
        acts = False

    def sample(engine: Any, request: Any) -> Any:
        begin_ns = time.time_ns()
        actions = sample_request(engine, request)
        inferences.append((request.window.stamp_ns, begin_ns, time.time_ns()))
        return actions

    def watch_camera(node: Any, *rest: Any) -> None:
        """Take and decode pictures, which a policy that needs none would not."""
        qos = observation_qos(lockstep=False)
        node.create_subscription(Image, "/pusht/image", lambda message: decode_image(message, "rgb8"), qos)

    sample_request = worker.sample_request
    worker.sample_request = sample
    _after(PolicyNode, "__init__", watch_camera)
    _after(ObservationBuffer, "add", after_add)
    _after(Publisher, "publish", after_publish)
    _after(SetpointProcess, "__init__", after_process_start)
    _after(Controller, "start", after_run_start)
    _after(Controller, "stop", after_run_stop)


def probe_pusht_node(records: Records) -> None:
    """Note when the simulated robot's controller takes a trajectory."""
    from dp_ros.sim.trajectory_controller import TrajectoryController

    taken = records.setdefault("taken", [])

    def after_accept(_: Any, trajectory: Any, now_ns: int) -> None:
        taken.append((trajectory.stamp_ns, time.time_ns()))

    _after(TrajectoryController, "accept", after_accept)


PROBES: dict[str, Callable[[Records], None]] = {
    "policy_node": probe_policy_node,
    "pusht_node": probe_pusht_node,
}


def _after(owner: type, name: str, note: Callable[..., None]) -> None:
    """Call `note` with the arguments of a method each time it has returned."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        note(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def main() -> int:
    """Run the node named by the first argument; the rest are the node's own."""
    executable, folder = sys.argv.pop(1), Path(os.environ[FOLDER_VARIABLE])
    records: Records = {}
    PROBES[executable](records)
    node = importlib.import_module(f"dp_ros.nodes.{executable}")
    try:
        status: int = node.main()
    finally:
        (folder / f"{executable}.json").write_text(json.dumps(records), encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
