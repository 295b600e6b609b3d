"""Offline and live parity: what a run recorded, played back through the node, gives the same chunks bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import PoseArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState

from dp_ros import bringup
from dp_ros.action import RunPolicy
from dp_ros.bridge.clock import to_ns, to_stamp
from dp_ros.bridge.codecs import decode
from dp_ros.bridge.lockstep import CLOCK_TOPIC, DONE_TOPIC
from dp_ros.bridge.qos import reliable_qos
from dp_ros.cli.ros_eval import pusht_session
from dp_ros.inference.load import load_engine
from dp_ros.inference.worker import sample_request
from dp_ros.msg import LockstepDone
from dp_ros.paths import share_dir
from dp_ros.processes import running
from dp_ros.runtime.controller import Controller
from dp_ros.runtime.execution import Execution
from dp_ros.task import TaskSpec, load_task

from ..robot import Robot

pytestmark = pytest.mark.timeout(120)
STEPS, EVERY = 40, 4  # as the manifest of the model says
TOPICS = {"keypoint": ("/pusht/keypoints", PoseArray), "agent_pos": ("/pusht/joint_states", JointState)}


class Recording:
    """Messages by stream and time."""

    def __init__(self) -> None:
        self.samples: dict[int, dict[str, Any]] = {}

    def listen(self, node: Any) -> None:
        for key, (topic, kind) in TOPICS.items():
            node.create_subscription(
                kind, topic, lambda message, key=key: self.add(key, message), reliable_qos(1000)
            )

    def add(self, key: str, message: Any) -> None:
        self.samples.setdefault(to_ns(message.header.stamp), {})[key] = message


def same(a: list[Any], b: list[Any]) -> None:
    assert [to_ns(c.observation_stamp) for c in a] == [to_ns(c.observation_stamp) for c in b]
    assert [c.values.tobytes() for c in a] == [c.values.tobytes() for c in b]


def test_a_recorded_run_played_back_gives_the_same_chunks_bit_for_bit(ros_domain: int) -> None:
    task = load_task("pusht_state")
    recording = Recording()
    with pusht_session(model="pusht_state", task="pusht_state", engine="auto") as (client, _):
        recording.listen(client.node)
        client.wait(lambda: recording.samples, "the first sample")
        client.reset(100007)
        handle = client.send_goal(seed=5, time_limit_s=STEPS * 0.1)
        answer = client.wait_for_result(handle, 60.0)
        assert answer.result.reason == "TIME_LIMIT"
        client.wait(lambda: len(client.chunks) == STEPS // EVERY, "every chunk")
        live = list(client.chunks)
        first_ns, last_ns = (to_ns(live[i].observation_stamp) for i in (0, -1))
        client.wait(lambda: len(recording.samples.get(last_ns, {})) == len(TOPICS), "the last one's samples")
    played = {t: s for t, s in sorted(recording.samples.items()) if first_ns - task.dt_ns <= t <= last_ns}

    description = bringup.policy(model="pusht_state", engine="auto")
    parameters = {**description.nodes[0].parameters, "lockstep": True, "use_sim_time": True}
    node = bringup.NodeSpec("policy", "policy_node", parameters)
    with Robot() as player, running(bringup.Bringup("player", (node,))):
        again = play(player, played, first_ns)
    same(live, again)
    offline = in_process(task, played, first_ns)
    assert [values.tobytes() for values in offline] == [np.array(c.values).tobytes() for c in live]


def play(player: Robot, samples: dict[int, dict[str, Any]], first_ns: int) -> list[Any]:
    """Publish a recording in lockstep; returns the chunks that the node answers with."""
    done: list[int] = []
    qos = reliable_qos(1000)
    player.node.create_subscription(LockstepDone, DONE_TOPIC, lambda m: done.append(to_ns(m.stamp)), qos)
    publishers = {
        key: player.node.create_publisher(kind, topic, qos) for key, (topic, kind) in TOPICS.items()
    }
    clock = player.node.create_publisher(Clock, CLOCK_TOPIC, qos)
    player.publish_joints, player.keypoints = False, None
    player.until(player.run_client.server_is_ready, "the action server")
    player.until(
        lambda: all(p.get_subscription_count() for p in (*publishers.values(), clock)), "the subscriptions"
    )
    for time_ns, messages in samples.items():
        if time_ns == first_ns:
            goal = RunPolicy.Goal(time_limit_s=STEPS * 0.1, seed=5)
            handle = player.answer(player.run_client.send_goal_async(goal), "the answer to the goal")
            assert handle.accepted

        def publish(messages: dict[str, Any] = messages, time_ns: int = time_ns) -> bool:
            if done and done[-1] == time_ns:
                return True
            for key, message in messages.items():
                publishers[key].publish(message)
            clock.publish(Clock(clock=to_stamp(time_ns)))
            return False

        player.until(publish, f"the node to be done with {time_ns}")
    player.until(lambda: len(player.chunks) == STEPS // EVERY, "every chunk")
    return list(player.chunks)


def in_process(task: TaskSpec, samples: dict[int, dict[str, Any]], first_ns: int) -> list[np.ndarray]:
    """The same through the runtime without ROS."""
    engine = load_engine(share_dir() / "models" / "pusht_state", engine="auto")
    said = engine.manifest.execution
    assert said is not None
    assert (said.mode, said.infer_every) == ("rtc", EVERY), (
        "the hardest of them: a chunk depends on the one before"
    )
    controller = Controller(task, immediate=True, execution=Execution(said.mode, said.infer_every))
    chunks = []
    for time_ns, messages in samples.items():
        for key, message in messages.items():
            controller.buffer.add(key, time_ns, decode(message, task.observations[key]))
        if time_ns == first_ns:
            controller.start(time_ns, seed=5, time_limit_s=STEPS * 0.1)
        request = controller.tick(time_ns).request
        if request is not None:
            chunk = controller.accept(
                request, sample_request(engine, request), now_ns=time_ns, inference_ns=1
            )
            chunks.append(chunk.values)
    return chunks
