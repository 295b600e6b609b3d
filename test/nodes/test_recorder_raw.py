"""The recorder keeps streams at their own rates; the test plays robot and operator, in real time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from mcap.reader import make_reader  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402

from dp_ros.bridge.bags import raw_bag  # noqa: E402
from dp_ros.bridge.bags.reading import import_bag  # noqa: E402
from dp_ros.bridge.clock import to_ns, to_stamp  # noqa: E402
from dp_ros.bridge.codecs import message_class  # noqa: E402
from dp_ros.bridge.outputs import encode_command  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.nodes.test_recorder_node import DT, NAMES, Stage  # noqa: E402


@pytest.fixture
def stage(ros_domain: int, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "x.zarr", lockstep=False, raw_streams="vectors")
    made.until(lambda: made.joints.get_subscription_count() == 2, "the raw subscription")
    made.until(lambda: made.commands.get_subscription_count() == 2, "the raw subscription to commands")
    yield made
    made.close()


def now_ns(stage: Stage) -> int:
    return int(stage.node.get_clock().now().nanoseconds)


def start(stage: Stage) -> None:
    def started() -> bool:
        stage.show_at(to_stamp(now_ns(stage)), 0)
        return bool(stage.call("start").success)

    stage.until(started, "the start")


def demonstrate(stage: Stage, steps: int, per_step: int = 20) -> list[int]:
    """Commands and samples, `per_step` times as many as the grid has steps; the stamps of the samples."""
    begin_ns, stamps = now_ns(stage) + DT, []
    for k in range(steps * per_step):
        due_ns = begin_ns + k * DT // per_step
        while now_ns(stage) < due_ns:
            stage.executor.spin_once(timeout_sec=0.0)
        if k % per_step == 0:
            stage.commands.publish(encode_command(np.array([k, -k]), due_ns + DT, NAMES))
        stage.show_at(to_stamp(due_ns), k)
        stamps.append(due_ns)
    return stamps


def messages(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Number and content of every message, by topic."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with path.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            assert schema is not None
            content = deserialize_message(message.data, message_class(schema.name))
            found.setdefault(channel.topic, []).append((message.sequence, content))
    return found


def test_every_message_is_kept_beside_the_rows(stage: Stage, tmp_path: Path) -> None:
    start(stage)
    stamps = demonstrate(stage, steps=5)
    saved = stage.call("save")
    assert saved.success, saved.message
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    bag = tmp_path / buffer.episode_info[0]["raw"]
    found = messages(bag)
    joints = [content for _, content in found["/pusht/joint_states"]]
    numbers = [number for number, _ in found["/pusht/joint_states"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # none was lost
    kept = [to_ns(content.header.stamp) for content in joints]
    assert kept[-len(stamps) :] == stamps
    assert len(joints) > 10 * buffer.n_steps
    assert [to_ns(c.header.stamp) for _, c in found["/pusht/keypoints"]][-len(stamps) :] == stamps
    # A row's value is that of a message whose stamp is not after its time.
    values = {content.position[content.name.index("agent_x")] for content in joints}
    assert set(buffer["agent_pos"][:, 0].tolist()) <= values


def test_a_command_from_before_the_episode_opens_the_bag(stage: Stage, tmp_path: Path) -> None:
    stage.commands.publish(encode_command(np.array([7.0, -7.0]), now_ns(stage) + 100 * DT, NAMES))
    stage.until(lambda: "/pusht/joint_trajectory" in stage.recorder._raw._last, "the command")
    start(stage)
    demonstrate(stage, steps=2)
    assert stage.call("save").success
    bag = tmp_path / ReplayBuffer.open(tmp_path / "x.zarr").episode_info[0]["raw"]
    commands = [c.points[-1].positions[0] for _, c in messages(bag)["/pusht/joint_trajectory"]]
    assert commands[0] == 7.0 and commands[1:] == [0.0, 20.0]


def test_a_discarded_episode_leaves_no_bag(stage: Stage, tmp_path: Path) -> None:
    start(stage)
    demonstrate(stage, steps=2)
    assert list((tmp_path / "x.raw").glob(".*.mcap.partial"))
    assert stage.call("discard").success
    assert list((tmp_path / "x.raw").iterdir()) == []


def test_an_episode_of_which_no_step_came_leaves_no_bag(stage: Stage, tmp_path: Path) -> None:
    start(stage)
    stage.recorder._end("a reason")
    start(stage)
    demonstrate(stage, steps=2)
    assert stage.call("save").success
    assert len(list((tmp_path / "x.raw").iterdir())) == 1


def test_a_bag_that_falls_behind_ends_the_recording_and_the_rows_can_be_saved(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(stage)
    demonstrate(stage, steps=2)
    monkeypatch.setattr(raw_bag, "WAITING_BYTES", 10)
    demonstrate(stage, steps=1)
    stage.until(lambda: stage.statuses[-1].phase == "idle", "the end")
    assert "the disk cannot keep up with the messages" in stage.statuses[-1].message
    saved = stage.call("save")
    assert saved.success and "without its raw messages" in saved.message
    assert "raw" not in ReplayBuffer.open(tmp_path / "x.zarr").episode_info[0]


def test_the_bag_of_a_recorder_that_was_killed_is_reported(ros_domain: int, tmp_path: Path) -> None:
    (tmp_path / "x.raw").mkdir()
    (tmp_path / "x.raw" / ".2026-01-01T00-00-00.000000Z.mcap.partial").write_bytes(b"some messages")
    made = Stage(tmp_path / "x.zarr", lockstep=False, raw_streams="all")
    try:
        made.until(lambda: made.statuses and "never saved" in made.statuses[-1].message, "the report")
        kept = tmp_path / "x.raw" / "2026-01-01T00-00-00.000000Z.unfinished.mcap"
        assert str(kept) in made.statuses[-1].message
        assert kept.read_bytes() == b"some messages"
    finally:
        made.close()


def test_the_bag_gives_the_rows_of_the_recorder_again(stage: Stage, tmp_path: Path) -> None:
    for _ in range(3):  # a busy machine may keep the commands for so long that the recorder ends an episode
        start(stage)
        demonstrate(stage, steps=8)
        assert stage.call("save").success
        buffer = ReplayBuffer.open(tmp_path / "x.zarr")
        if buffer.n_steps >= 7:
            break
        assert stage.call("delete_last").success
    bag = tmp_path / buffer.episode_info[0]["raw"]
    import_bag(bag, load_task("pusht_state"), tmp_path / "again.zarr", lambda: None)
    again = ReplayBuffer.open(tmp_path / "again.zarr")
    rows = min(buffer.n_steps, again.n_steps)
    assert again.n_episodes == 1 and rows >= 7 and abs(buffer.n_steps - again.n_steps) <= 1
    for key in buffer:
        np.testing.assert_array_equal(again[key][:rows], buffer[key][:rows], key)
