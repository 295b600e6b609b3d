"""Another model in a policy node, in this process: what is put into use, what is refused, and what is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.msg import ActionChunk, PolicySample  # noqa: E402
from dp_ros.nodes.policy_loop import PolicyLoop  # noqa: E402
from dp_ros.nodes.policy_node import PolicyNode  # noqa: E402
from dp_ros.task import TaskSpec, load_task  # noqa: E402
from test.system.constant_model import make_constant_model  # noqa: E402

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def another_task(**changes: Any) -> TaskSpec:
    """pusht_state with changes, under another name."""
    data = load_task("pusht_state").model_dump(mode="json")
    return TaskSpec.from_dict({**data, "name": "another", **changes})


def with_another_shape() -> TaskSpec:
    """pusht_state without the keypoints."""
    observations = load_task("pusht_state").model_dump(mode="json")["observations"]
    return another_task(observations={"agent_pos": observations["agent_pos"]})


@pytest.fixture
def node(ros_domain: int, tmp_path: Path) -> Iterator[PolicyNode]:
    """A node whose model is for pusht_state, and whose task is its model's."""
    model = make_constant_model(tmp_path / "first", load_task("pusht_state"), 256.0)
    parameters = [f"model:={model}", "engine:=onnx", "require_controller:=false"]
    rclpy.init(args=["--ros-args", *(word for text in parameters for word in ("-p", text))])
    node = PolicyNode()
    assert node.trigger_configure() == SUCCESS
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def engine_for(tmp_path: Path) -> Callable[..., Any]:
    def make(name: str, task: TaskSpec) -> Any:
        return load_engine(make_constant_model(tmp_path / name, task, 100.0), engine="onnx", threads=1)

    return make


def loop_of(node: PolicyNode) -> PolicyLoop:
    assert node._loop is not None
    return node._loop


def stopped(node: PolicyNode) -> bool:
    """Whether the emergency stop is latched: no goal begins."""
    loop = loop_of(node)
    assert loop._refusal().startswith("EMERGENCY_STOP") == loop._controller.supervisor.emergency_stopped
    return loop._controller.supervisor.emergency_stopped


def test_the_emergency_stop_outlives_every_transition_and_another_task(
    node: PolicyNode, engine_for: Callable[..., Any]
) -> None:
    node.trigger_activate()
    loop_of(node)._controller.supervisor.press_emergency_stop("a test")
    assert stopped(node)
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert getattr(node, f"trigger_{transition}")() == SUCCESS
    assert stopped(node)
    node.trigger_deactivate()
    before = node._loop
    node._change_model(engine_for("another", another_task()))
    node.trigger_activate()
    assert node._loop is not before and stopped(node)
    assert loop_of(node)._controller.supervisor.clear_emergency_stop(goal_running=False) == ""
    assert not stopped(node), "a service releases it, and nothing else"
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        getattr(node, f"trigger_{transition}")()
    assert not stopped(node)


def test_while_inactive_a_model_of_another_task_is_connected_to_its_topics(
    node: PolicyNode, engine_for: Callable[..., Any]
) -> None:
    engine = engine_for("another", with_another_shape())
    assert node._change_model(engine) == engine.manifest.model_id
    assert loop_of(node)._task.name == "another"
    assert node.count_subscribers("/pusht/keypoints") == 0
    assert node.trigger_activate() == SUCCESS


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("mode", value="rtc"), "can take no prefix"),
        (
            Parameter("operator_type", value="no_such_msgs/msg/Thing"),
            "no_such_msgs/msg/Thing is not installed",
        ),
        (Parameter("operator_topic", value="/pusht/joint_trajectory"), "yield to itself"),
    ],
)
def test_a_model_that_is_refused_while_inactive_leaves_the_one_in_use(
    node: PolicyNode, engine_for: Callable[..., Any], parameter: Parameter, words: str
) -> None:
    before = node._loop
    node.set_parameters([parameter])
    with pytest.raises(UserError, match=words):
        node._change_model(engine_for("another", another_task()))
    assert node._loop is before, "nothing was taken down"
    assert node.trigger_activate() == SUCCESS


def test_where_another_task_cannot_be_connected_the_model_before_is_used_again(
    node: PolicyNode, engine_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, refused = loop_of(node).engine.manifest.model_id, ["another"]

    def connect(engine: Any) -> None:
        if engine.task.name in refused:
            raise UserError("setpoints cannot be sent")
        node._loop = PolicyLoop(node, engine, lambda: node._active, node._stop_latch)

    monkeypatch.setattr(node, "_connect", connect)
    engine = engine_for("another", another_task())
    with pytest.raises(UserError, match="setpoints cannot be sent"):
        node._change_model(engine)
    assert loop_of(node).engine.manifest.model_id == first
    assert node.trigger_activate() == SUCCESS

    node.trigger_deactivate()
    refused.append("pusht_state")
    with pytest.raises(UserError, match="nor can the model before be used again"):
        node._change_model(engine)
    assert node.trigger_activate() == FAILURE
    assert "configure it again" in node.last_error
    refused.clear()
    assert node.trigger_cleanup() == SUCCESS and node.trigger_configure() == SUCCESS


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (another_task(n_action_steps=4), "n_action_steps is 8, the model was made for 4"),
        (with_another_shape(), "observations is .*, the model was made for .'agent_pos'."),
    ],
)
def test_while_active_a_model_of_another_task_or_shape_is_refused(
    node: PolicyNode, engine_for: Callable[..., Any], task: TaskSpec, words: str
) -> None:
    node.trigger_activate()
    before, first = node._loop, loop_of(node).engine
    with pytest.raises(UserError, match=words):
        node._change_model(engine_for("another", task))
    assert node._loop is before and loop_of(node).engine is first
    renamed = engine_for("renamed", another_task())
    assert node._change_model(renamed) == renamed.manifest.model_id, "the name of the task alone says nothing"
    assert node._loop is before and loop_of(node).engine is renamed


def test_a_model_that_comes_during_an_inference_takes_over_after_it(
    node: PolicyNode, engine_for: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the result of the one before is published as its own."""
    node.trigger_activate()
    loop, second = loop_of(node), engine_for("second", load_task("pusht_state"))
    first, begun, go_on = loop.engine, threading.Event(), threading.Event()
    sample = first.sample

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(10.0)
        return sample(*arguments)

    monkeypatch.setattr(first, "sample", slow)
    chunks: list[Any] = []
    samples: list[Any] = []
    node.create_subscription(ActionChunk, "~/action_chunk", chunks.append, 10)
    node.create_subscription(PolicySample, "~/sample", samples.append, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin_until(condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < end_s
            observe(loop, node)
            executor.spin_once(timeout_sec=0.02)

    loop._controller.start(node.get_clock().now().nanoseconds, seed=0, time_limit_s=60.0)
    spin_until(begun.is_set)
    assert node._change_model(second) == second.manifest.model_id
    go_on.set()
    spin_until(lambda: len(chunks) >= 2 and len(samples) >= 2)
    ids = [first.manifest.model_id, second.manifest.model_id]
    assert [message.model_id for message in chunks[:2]] == ids
    assert [message.model_id for message in samples[:2]] == ids
    executor.shutdown()


def observe(loop: PolicyLoop, node: PolicyNode) -> None:
    """Something new on every stream, and a tick."""
    now_ns = node.get_clock().now().nanoseconds
    for key, spec in loop._task.observations.items():
        loop._controller.buffer.add(key, now_ns, np.full(spec.shape, 200.0, np.float32))
    loop._tick(now_ns)
