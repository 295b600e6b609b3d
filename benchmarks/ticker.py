"""Measures how punctual the setpoint thread is while a policy samples without pause, and what makes it so.

    python benchmarks/ticker.py --hz 100 --seconds 60 [--images] [--switch-interval-ms 0.5] [--priority 0]

The load is the shipped state policy in a thread (ONNX Runtime, one processor thread), the executor in the main
thread, and with `--images` another process that publishes two 640x480 cameras at 30 Hz and joint states at 500 Hz,
which are decoded and scaled in callbacks: more than a node does that decodes elsewhere. Each tick publishes a
setpoint of seven joints. Prints one line with the jitter and what a tick costs.
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

import dp_ros.bridge.ticker as ticker_module
from dp_ros.bridge.codecs import decode, encode_image
from dp_ros.bridge.outputs import make_output
from dp_ros.bridge.qos import observation_qos, reliable_qos
from dp_ros.bridge.ticker import Ticker, prompt_interpreter
from dp_ros.inference.load import load_engine
from dp_ros.inference.sampler import sampling_noise
from dp_ros.paths import share_dir
from dp_ros.runtime.spline import MotionState
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
    parser.add_argument(
        "--switch-interval-ms", type=float, help="5: Python's own, without prompt_interpreter"
    )
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO priority of the ticking thread")
    parser.add_argument("--inference-nice", type=int, default=0, help="nice value of the inference thread")
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
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), options.inference_nice)
        while not ended.is_set():
            engine.sample(observation, noise)
            inferences += 1

    heard = listen(node) if options.images else {}
    sensors = subprocess.Popen([sys.executable, __file__, "--publish"]) if options.images else None
    worker = threading.Thread(target=infer)
    if options.switch_interval_ms is not None:
        ticker_module.SWITCH_INTERVAL_S = options.switch_interval_ms / 1e3
    prompt = contextlib.nullcontext() if options.switch_interval_ms == 5.0 else prompt_interpreter()
    errors: list[Exception] = []
    ticker = Ticker(tick, options.hz, node.get_clock(), errors.append, realtime_priority=options.priority)
    try:
        with prompt:
            if not options.idle:
                worker.start()
            warm_s = time.monotonic() + 3.0
            while time.monotonic() < warm_s:
                executor.spin_once(timeout_sec=0.05)
            ticker.start()
            begin = (time.monotonic(), inferences, dict(heard), time.process_time())
            while time.monotonic() < begin[0] + options.seconds:
                executor.spin_once(timeout_sec=0.05)
            ticker.stop()
            wall_s = time.monotonic() - begin[0]
            n, cpu = inferences - begin[1], (time.process_time() - begin[3]) / wall_s
    finally:
        ended.set()
        if sensors is not None:
            sensors.terminate()
            sensors.wait()
        if worker.is_alive():
            worker.join()
    counts = "".join(f", {(heard[k] - begin[2][k]) / wall_s:.0f} {k}/s" for k in heard)
    tick_us = np.percentile(np.array(spent_ns) / 1e3, [50, 99])
    result = ticker.statistics()
    print(
        f"{result.hz:g} Hz, {result.total} ticks, {result.missed} missed; jitter ms p50 {result.jitter_p50_ms:.3f} "
        f"p99 {result.jitter_p99_ms:.3f} max {result.jitter_max_ms:.3f}; a tick takes us p50 {tick_us[0]:.0f} "
        f"p99 {tick_us[1]:.0f}; {n / wall_s:.1f} inferences/s{counts}; {cpu:.2f} cores; load {os.getloadavg()[0]:.1f}"
    )
    if errors:
        raise errors[0]


if __name__ == "__main__":
    main()
