"""Measures the policy node by itself: from the start of its process to active, its memory, what it has loaded.

    ROS_DOMAIN_ID=42 python benchmarks/node_startup.py [--model pusht_image] [--runs 5]

Active is when the node says so in its log. A client hears of it when DDS has brought the two together, which takes none
to three seconds more, whichever node is asked for; that is printed beside it. Resident memory is read two seconds
later, with the model warmed up. Prints a line a run and the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor

from dp_ros import bringup
from dp_ros.bridge.qos import reliable_qos
from dp_ros.msg import PolicyStatus
from dp_ros.processes import running
from dp_ros.task import load_task

_PATIENCE_S = 60.0
_SETTLE_S = 2.0


def one_run(model: str, task: str) -> tuple[float, float, float, bool]:
    """Seconds to active and to its being heard of, resident MiB, and whether torch is in the process."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("startup", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    active: list[float] = []
    told: list[float] = []

    def heard(status: PolicyStatus) -> None:
        if status.state != "inactive" and not active:
            active.append(time.monotonic())

    def said(name: str, line: str) -> None:
        if "active: a goal may begin" in line:
            told.append(time.monotonic())

    node.create_subscription(PolicyStatus, "/policy/status", heard, reliable_qos())
    try:
        begun_s = time.monotonic()
        with running(bringup.policy(model=model, task=task), echo=said) as processes:
            while not (active and told):
                if time.monotonic() - begun_s > _PATIENCE_S:
                    raise SystemExit(f"the policy node was not active after {_PATIENCE_S:g} s")
                processes.check()
                executor.spin_once(timeout_sec=0.01)
            time.sleep(_SETTLE_S)
            proc = Path(f"/proc/{processes.pids['policy']}")
            status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
            has_torch = "libtorch" in (proc / "maps").read_text()
        return told[0] - begun_s, active[0] - begun_s, int(status["VmRSS"].split()[0]) / 1024, has_torch
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pusht_state", help="of a task with the same name, or --task")
    parser.add_argument("--task", help="task file or name (default: as the model)")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    task = options.task or options.model
    load_task(task)
    found = []
    for number in range(options.runs):
        seconds, heard_s, resident_mb, has_torch = one_run(options.model, task)
        found.append((seconds, heard_s, resident_mb))
        print(
            f"run {number}: active after {seconds:.2f} s, heard of after {heard_s:.2f} s, {resident_mb:.0f} MiB"
            + (", with torch" if has_torch else ""),
            flush=True,
        )
    seconds, heard_s, resident_mb = (statistics.median(values) for values in zip(*found, strict=True))
    print(f"median: {seconds:.2f} s, {heard_s:.2f} s, {resident_mb:.0f} MiB")


if __name__ == "__main__":
    main()
