from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from mcap.reader import make_reader  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

from dp_ros.bridge.bags import raw_bag  # noqa: E402
from dp_ros.bridge.bags.definitions import message_definition  # noqa: E402
from dp_ros.bridge.bags.raw_bag import BagProblem, RawBag, RawMessage, set_aside_unfinished  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402

KIND = "std_msgs/msg/Float64MultiArray"
TOPICS = {"/command": (KIND, message_definition(KIND))}


def message(k: int, size: int = 1) -> RawMessage:
    """Number `k`, `size` times."""
    data = serialize_message(Float64MultiArray(data=[float(k)] * size))
    return RawMessage("/command", data, 1_000 + k, 900 + k, 2**32 + k)


def read(path: Path) -> list[tuple[int, int, int]]:
    with path.open("rb") as file:
        return [
            (m.log_time, m.publish_time, m.sequence)
            for _, _, m in make_reader(file).iter_messages(log_time_order=False)
        ]


def test_a_saved_bag_holds_every_message_with_its_times_and_number(tmp_path: Path) -> None:
    bag = RawBag(tmp_path / "x.raw", TOPICS)
    for k in range(1000):
        bag.put(message(k))
    assert list(tmp_path.glob("x.raw/*.mcap")) == []  # not before it is complete
    path = bag.save()
    assert bag.save() == path
    assert [file.name for file in (tmp_path / "x.raw").iterdir()] == [path.name]
    assert read(path) == [(1_000 + k, 900 + k, k) for k in range(1000)]


def test_others_can_read_what_the_messages_say(tmp_path: Path) -> None:
    bag = RawBag(tmp_path, TOPICS)
    for k in range(3):
        bag.put(message(k, size=4))
    path = bag.save()
    with AnyReader([path]) as reader:
        values = [
            reader.deserialize(data, connection.msgtype).data.tolist()  # type: ignore[attr-defined]
            for connection, _, data in reader.messages()
        ]
    assert values == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


@pytest.mark.parametrize(
    "kind",
    ["sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "geometry_msgs/msg/PoseArray"],
)
def test_definitions_are_those_that_rosbag2_would_write(kind: str) -> None:
    known = get_typestore(Stores.ROS2_JAZZY)
    types = get_types_from_msg(message_definition(kind), kind)
    assert {name: types[name] for name in types} == {name: known.fielddefs[name] for name in types}


def test_a_type_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="nothing_msgs/msg/Thing.*install the ROS package nothing_msgs"):
        message_definition("nothing_msgs/msg/Thing")


def test_discarded_bags_leave_nothing(tmp_path: Path) -> None:
    bag = RawBag(tmp_path / "x.raw", TOPICS)
    bag.put(message(0))
    bag.discard()
    saved = RawBag(tmp_path / "x.raw", TOPICS)
    saved.save()
    saved.discard()
    assert list((tmp_path / "x.raw").iterdir()) == []


def test_what_a_killed_recorder_left_is_kept_and_readable_up_to_its_last_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_bag, "_CHUNK_BYTES", 1000)
    bag = RawBag(tmp_path / "x.raw", TOPICS)
    for k in range(300):
        bag.put(message(k))
    bag._end()
    shutil.copytree(tmp_path / "x.raw", tmp_path / "killed.raw")
    bag.discard()
    (kept,) = set_aside_unfinished(tmp_path / "killed.raw")
    assert kept.name.endswith(".unfinished.mcap") and not kept.name.startswith(".")
    assert set_aside_unfinished(tmp_path / "killed.raw") == []
    found: list[int] = []
    with kept.open("rb") as file, pytest.raises(Exception):  # noqa: B017  it ends in the middle
        from mcap.stream_reader import StreamReader

        for record in StreamReader(file).records:
            if type(record).__name__ == "Message":
                found.append(record.sequence)  # type: ignore[attr-defined]
    assert len(found) > 200 and found == list(range(len(found)))


def test_a_disk_that_cannot_keep_up_ends_the_bag_instead_of_filling_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_bag, "WAITING_BYTES", 2000)
    bag = RawBag(tmp_path / "x.raw", TOPICS)
    with (
        bag._changed
    ):  # as if the disk were stuck: the thread waits for the lock, which this one may take again
        with pytest.raises(BagProblem, match="cannot keep up.*record fewer raw streams"):
            for k in range(100):
                bag.put(message(k, size=10))
        with pytest.raises(BagProblem):
            bag.put(message(0))
    with pytest.raises(BagProblem, match="what there is of it is in .*unfinished.mcap"):
        bag.save()


def test_a_disk_that_refuses_is_said_with_the_next_message_and_when_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    bag = RawBag(tmp_path / "x.raw", TOPICS)
    monkeypatch.setattr(bag._writer, "add_message", full)
    bag.put(message(0))
    bag._thread.join(5.0)
    with pytest.raises(BagProblem, match="No space left"):
        bag.put(message(1))
    with pytest.raises(BagProblem, match="No space left"):
        bag.save()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_text("in the way")
    with pytest.raises(BagProblem, match="raw messages cannot be recorded: .*x.raw"):
        RawBag(tmp_path / "x.raw", TOPICS)
