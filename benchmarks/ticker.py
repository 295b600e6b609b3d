"""Measures how punctual setpoints are while a policy samples without pause: from a thread of it, and from a process.

    python benchmarks/ticker.py --hz 100 --seconds 60 [--images] [--splices] [--idle] [--priority 0]

The load is the shipped state policy in a thread (ONNX Runtime, one processor thread), the executor in the main
thread, and with `--images` another process that publishes two 640x480 cameras at 30 Hz and joint states at 500 Hz,
which are decoded and scaled in callbacks: more than a node does that decodes elsewhere. With `--splices` the main
thread plans a chunk ten times a second, as the policy node does. Both tickers run beside it at the same time, so that
they can be compared on a machine that is not quiet: the thread in this process, which publishes a setpoint of seven
joints, and the process that `bridge.setpoint_process` starts, which is what the policy node uses. Prints a line each.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from sensor_msgs.msg import Image, JointState

from dp_ros.bridge.codecs import decode, encode_image
from dp_ros.bridge.outputs import make_output
from dp_ros.bridge.qos import observation_qos, reliable_qos
from dp_ros.bridge.setpoint_process import SetpointProcess
from dp_ros.bridge.ticker import Ticker, prompt_interpreter
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.paths import share_dir
from dp_ros.runtime.motion.chunk import ActionChunk, ChunkSchedule
from dp_ros.runtime.motion.spline import MotionState
from dp_ros.runtime.outlet import Outlet
from dp_ros.task import ActionSpec, ObservationSpec

JOINTS = [f"joint_{i}" for i in range(7)]
RCLError = rclpy_implementation.RCLError
CAMERAS = ("/camera_0", "/camera_1")


def publish_sensors() -> None:
    """The other process: two cameras at 30 Hz and joint states at 500 Hz, until it is told to end."""
    rclpy.init()
    node = rclpy.create_node("sensors")
    cameras = [node.create_publisher(Image, topic, reliable_qos()) for topic in CAMERAS]
    joints = node.create_publisher(JointState, "/joint_states", reliable_qos())
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    begin_s, n = time.monotonic(), 0
    with contextlib.suppress(KeyboardInterrupt, RCLError):
        while rclpy.ok():
            now_ns = time.time_ns()
            state = JointState(name=JOINTS, position=[0.1] * 7, velocity=[0.0] * 7)
            joints.publish(state)
            for k, camera in enumerate(cameras):
                if n % 17 == 8 * k:
                    camera.publish(encode_image(pixels, now_ns, "camera"))
            n += 1
            time.sleep(max(begin_s + n / 500 - time.monotonic(), 0.0))


def listen(node: Any) -> dict[str, int]:
    """Decode what the sensors publish in callbacks of `node`; returns the counts of what came."""
    image = ObservationSpec.model_validate(
        {
            "topic": CAMERAS[0],
            "type": "sensor_msgs/msg/Image",
            "encoding": "rgb8",
            "shape": [96, 96, 3],
            "resize": [96, 96],
            "max_age_s": 1.0,
        }
    )
    state = ObservationSpec.model_validate(
        {
            "topic": "/joint_states",
            "type": "sensor_msgs/msg/JointState",
            "fields": ["position"],
            "names": JOINTS,
            "shape": [7],
            "max_age_s": 1.0,
        }
    )
    heard = {"images": 0, "joints": 0}

    def take(kind: str, spec: ObservationSpec, message: Any) -> None:
        decode(message, spec)
        heard[kind] += 1

    for topic in CAMERAS:
        node.create_subscription(
            Image, topic, lambda m: take("images", image, m), observation_qos(lockstep=False)
        )
    node.create_subscription(
        JointState, "/joint_states", lambda m: take("joints", state, m), observation_qos(lockstep=False)
    )
    return heard


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hz", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--images", action="store_true", help="with camera and joint callbacks")
    parser.add_argument("--idle", action="store_true", help="without inference")
    parser.add_argument("--splices", action="store_true", help="plan chunks in the main thread")
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO priority of the ticking thread")
    parser.add_argument("--model", default=str(share_dir() / "models" / "pusht_state"))
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if options.publish:
        publish_sensors()
        return
    engine = load_engine(options.model)
    task = engine.task
    observation = {
        key: np.zeros((task.n_obs_steps, *spec.shape), np.float32) for key, spec in task.observations.items()
    }
    noise = sampling_noise(0, 0, (task.horizon, task.action.dim))
    rclpy.init()
    node = rclpy.create_node("ticker_benchmark")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    action = ActionSpec.model_validate(
        {
            "topic": "/position_controller/commands",
            "type": "std_msgs/msg/Float64MultiArray",
            "output": "setpoint",
            "rate_hz": options.hz,
            "names": JOINTS,
            "shape": [7],
            "limits": {"position": {"min": [-9.0] * 7, "max": [9.0] * 7}},
        }
    )
    output: Any = make_output(node, action)
    spent_ns: list[int] = []

    def tick(now_ns: int) -> None:
        begin_ns = time.perf_counter_ns()
        output.publish(MotionState.at_rest(np.full(7, now_ns % 1000 / 1e3)), now_ns)
        spent_ns.append(time.perf_counter_ns() - begin_ns)

    ended = threading.Event()
    inferences = 0

    def infer() -> None:
        nonlocal inferences
        while not ended.is_set():
            engine.sample(observation, noise)
            inferences += 1

    heard = listen(node) if options.images else {}
    sensors = subprocess.Popen([sys.executable, __file__, "--publish"]) if options.images else None
    worker = threading.Thread(target=infer)
    errors: list[Exception] = []
    ticker = Ticker(tick, options.hz, node.get_clock(), errors.append, realtime_priority=options.priority)
    schedule = ChunkSchedule(action)
    outlet = Outlet(action, schedule)
    elsewhere = SetpointProcess(
        node, action, outlet, dry_run=False, realtime_priority=options.priority, on_error=errors.append
    )

    def spin(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        splice_s = time.monotonic()
        while (now_s := time.monotonic()) < end_s:
            if options.splices and now_s >= splice_s:
                splice_s = now_s + 0.1
                start_ns = time.time_ns() + 50_000_000
                values = np.sin(start_ns / 1e9 + 0.1 * np.arange(16))[:, None].repeat(7, axis=1)
                schedule.splice(ActionChunk(start_ns, 100_000_000, values, start_ns))
                outlet.open(start_ns)
            executor.spin_once(timeout_sec=0.05)

    try:
        with prompt_interpreter():
            if not options.idle:
                worker.start()
            spin(3.0)
            elsewhere.record.clear()
            ticker.start()
            begin = (time.monotonic(), inferences, dict(heard), time.process_time())
            spin(options.seconds)
            ticker.stop()
            wall_s = time.monotonic() - begin[0]
            n, cpu = inferences - begin[1], (time.process_time() - begin[3]) / wall_s
        results = {"thread": ticker.statistics(), "process": elsewhere.statistics()}
    finally:
        ended.set()
        outlet.close()
        elsewhere.close()
        if sensors is not None:
            sensors.terminate()
            sensors.wait()
        if worker.is_alive():
            worker.join()
    for name, result in results.items():
        print(
            f"{name}: {result.hz:g} Hz, {result.total + result.missed} ticks due, {result.missed} late by a period or "
            f"more; jitter ms p50 {result.jitter_p50_ms:.3f} p99 {result.jitter_p99_ms:.3f} "
            f"max {result.jitter_max_ms:.3f}"
        )
    counts = "".join(f", {(heard[k] - begin[2][k]) / wall_s:.0f} {k}/s" for k in heard)
    tick_us = np.percentile(np.array(spent_ns) / 1e3, [50, 99])
    print(
        f"a tick of the thread takes us p50 {tick_us[0]:.0f} p99 {tick_us[1]:.0f}; {n / wall_s:.1f} inferences/s"
        f"{counts}; {cpu:.2f} cores; load {os.getloadavg()[0]:.1f}"
    )
    if errors:
        raise errors[0]


if __name__ == "__main__":
    main()
