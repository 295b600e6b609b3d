"""Recordings as bags and bags as recordings: what goes out comes back, and damaged bags are refused."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard

pytest.importorskip("rclpy")

from mcap.reader import make_reader  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from dp_ros.bridge.bags import bag_files  # noqa: E402
from dp_ros.bridge.bags.bag_files import messages_of  # noqa: E402
from dp_ros.bridge.bags.encoders import encode_command, encode_observation  # noqa: E402
from dp_ros.bridge.bags.episode_marks import MARK_TOPIC, EpisodeMark  # noqa: E402
from dp_ros.bridge.bags.reading import import_bag  # noqa: E402
from dp_ros.bridge.bags.writing import export_mcap  # noqa: E402
from dp_ros.bridge.clock import to_stamp  # noqa: E402
from dp_ros.cli.main import main  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter  # noqa: E402
from dp_ros.data.layout import TAKEOVER  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.task import TaskSpec, load_task  # noqa: E402
from test.data.recorded import small_task  # noqa: E402

T0 = 1_700_000_000_000_000_000


def nothing() -> None:
    pass


def plausible_episode(task: TaskSpec, length: int, seed: int, takeover: bool = False) -> list[dict[str, Any]]:
    """Rows that a robot could have given: unit quaternions, actions within their limits, grippers open or closed."""
    draw = np.random.default_rng(seed)
    limits = task.action.limits.position
    grippers = {gripper.name: gripper for gripper in task.action.grippers}
    rows = []
    for k in range(length):
        row: dict[str, Any] = {"timestamp": k / task.rate_hz}
        for key, spec in task.observations.items():
            if spec.is_image:
                row[key] = draw.integers(0, 256, spec.shape, dtype=np.uint8)
            else:
                row[key] = draw.normal(size=spec.shape).astype(np.float32)
                if spec.is_pose:
                    row[key][3:7] = np.float32([0, 0, 0, 1])
        low, high = np.array(limits.min), np.array(limits.max)
        values = low + draw.random(len(low)) * (high - low)
        for index in task.action.gripper_indices:
            gripper = grippers[task.action.command_names[index]]
            values[index] = gripper.open if k < length // 2 else gripper.closed
        row["action"] = values.astype(np.float32)
        if takeover:
            row[TAKEOVER] = np.uint8(length // 3 <= k < 2 * length // 3)
        rows.append(row)
    return rows


def record(path: Path, task: TaskSpec, lengths: list[int], takeover: bool = False) -> ReplayBuffer:
    with EpisodeWriter(path, task, takeover=takeover) as writer:
        for seed, length in enumerate(lengths):
            for row in plausible_episode(task, length, seed, takeover):
                writer.add(row)
            writer.save(seed, success=[True, False, None][seed % 3], info={"operator": f"nr {seed}"})
    return ReplayBuffer.open(path)


def assert_same(given: ReplayBuffer, back: ReplayBuffer) -> None:
    assert back.keys() == given.keys()
    assert back.episode_ends.tolist() == given.episode_ends.tolist()
    for key in given:
        if key == "timestamp" or key == "action":
            np.testing.assert_allclose(back[key], given[key], atol=1e-6)
        else:
            np.testing.assert_array_equal(back[key], given[key], key)


@pytest.mark.parametrize("name", ["pusht_state", "pusht_image", "ur5e_two_realsense", "so101"])
def test_a_recording_comes_back_from_its_bag(tmp_path: Path, name: str) -> None:
    task = load_task(name)
    given = record(tmp_path / "x.zarr", task, [7, 1, 12])
    said = export_mcap(given, range(3), tmp_path / "x.mcap", nothing)
    assert said.startswith("3 episodes")
    import_bag(tmp_path / "x.mcap", task, tmp_path / "y.zarr", nothing, min_steps=1)
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    assert_same(given, back)
    assert back.episode_seeds.tolist() == [0, 1, 2]
    assert back.episode_success.tolist() == [1, 0, -1]
    assert [info["operator"] for info in back.episode_info] == ["nr 0", "nr 1", "nr 2"]


def test_takeovers_come_back(tmp_path: Path) -> None:
    task = small_task()
    given = record(tmp_path / "x.zarr", task, [9], takeover=True)
    export_mcap(given, [0], tmp_path / "x.mcap", nothing)
    import_bag(tmp_path / "x.mcap", task, tmp_path / "y.zarr", nothing, takeover_topic="/policy/takeover")
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    assert back[TAKEOVER].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert_same(given, back)


def test_the_command_line_goes_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = record(tmp_path / "x.zarr", load_task("pusht_state"), [5, 6])
    arguments = ["data", "export", str(tmp_path / "x.zarr"), str(tmp_path / "x.mcap"), "--to", "mcap"]
    assert main([*arguments, "--episodes", "1"]) == 0
    back = ["data", "import", str(tmp_path / "x.mcap"), str(tmp_path / "y.zarr"), "--from", "bag"]
    assert main([*back, "--task", "pusht_state"]) == 0
    assert "1 episodes, 6 steps" in capsys.readouterr().out
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / "y.zarr")["agent_pos"], given["agent_pos"][5:])
    assert main([*back, "--task", "pusht_state"]) == 2  # it is there already


def test_others_can_read_the_bag(tmp_path: Path) -> None:
    record(tmp_path / "x.zarr", load_task("pusht_image"), [4, 3])
    export_mcap(ReplayBuffer.open(tmp_path / "x.zarr"), range(2), tmp_path / "x.mcap", nothing)
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(tmp_path / "x.mcap") as reader:
        images = [
            (time_ns, store.deserialize_cdr(data, connection.msgtype))
            for connection, time_ns, data in reader.messages()
            if connection.topic == "/pusht/image"
        ]
    assert len(images) == 7 and images[0][1].encoding == "rgb8"  # type: ignore[attr-defined]
    with (tmp_path / "x.mcap").open("rb") as file:
        reader = make_reader(file)
        summary, times = reader.get_summary(), [m.log_time for _, _, m in reader.iter_messages()]
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == len(times) == 7 * 3 + 4
        assert times == sorted(times)
        (metadata,) = reader.iter_metadata()
        assert "pusht_image" in metadata.metadata["task"]


class Bag:
    """A bag as a robot's computer would have written it, in either storage."""

    def __init__(
        self,
        path: Path,
        plugin: StoragePlugin = StoragePlugin.MCAP,
        compression: CompressionMode | None = None,
    ) -> None:
        self.store = get_typestore(Stores.ROS2_JAZZY)
        self.path, self.messages = path, []  # type: ignore[var-annotated]
        self.others: list[tuple[int, str, str, str, bytes]] = []  # with the definition of their type
        self._plugin, self._compression = plugin, compression

    def put(self, time_ns: int, topic: str, kind: str, message: Any) -> None:
        self.messages.append((time_ns, topic, kind, serialize_message(message)))

    def demonstrate(self, task: TaskSpec, begin_ns: int, steps: int, lag_ns: int = 20_000_000) -> None:
        """Samples and commands, the joints twice as often as the camera."""
        for k in range(steps):
            time_ns = begin_ns + k * task.dt_ns
            for spec in task.observations.values():
                value = np.full(spec.shape, k % 250, np.uint8 if spec.is_image else np.float32)
                for part in range(1 if spec.is_image else 2):
                    at_ns = time_ns + part * task.dt_ns // 2
                    self.put(
                        at_ns + lag_ns,
                        spec.topic,
                        spec.type,
                        encode_observation(value, spec, at_ns),
                    )
            command = encode_command([float(k) / 100] * 2, ["a", "b"], task.action, time_ns, task.dt_ns)
            self.put(time_ns + 1, task.action.topic, task.action.type, command)

    def close(self) -> Path:
        bag = Writer(self.path, version=9, storage_plugin=self._plugin)
        if self._compression is not None:
            bag.set_compression(self._compression, CompressionFormat.ZSTD)
        with bag as writer:
            for time_ns, topic, kind, definition, data in self.others:
                connection = writer.add_connection(topic, kind, msgdef=definition, rihs01="RIHS01_00")
                writer.write(connection, time_ns, data)
            connections: dict[str, Any] = {}
            for time_ns, topic, kind, data in sorted(self.messages, key=lambda m: m[0]):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=self.store)
                writer.write(connections[topic], time_ns, data)
        return self.path


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_pause_of_the_operator_divides_a_bag_into_episodes(tmp_path: Path, plugin: StoragePlugin) -> None:
    task, bag = small_task(), Bag(tmp_path / "bag", plugin)
    bag.demonstrate(task, T0, 10)
    bag.demonstrate(task, T0 + 5_000_000_000, 6)
    said = import_bag(bag.close(), task, tmp_path / "y.zarr", nothing)
    assert said.startswith("2 episodes")
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    first = back.episode(0)
    assert first["camera"][:10, 0, 0, 0].tolist() == list(range(10))
    np.testing.assert_allclose(first["action"][:10, 0], np.arange(10) / 100, atol=1e-6)
    assert first["pose"][:10, 0].tolist() == list(range(10))
    np.testing.assert_allclose(np.diff(first["timestamp"]), 0.1)
    assert back.episode_info[0]["bag"] == "bag"


def test_a_camera_that_fails_ends_an_episode_and_nothing_is_filled_in(tmp_path: Path) -> None:
    task, bag = small_task(), Bag(tmp_path / "bag")
    bag.demonstrate(task, T0, 30)
    gone = (T0 + 10 * task.dt_ns, T0 + 20 * task.dt_ns)
    bag.messages = [m for m in bag.messages if not (m[1] == "/camera" and gone[0] <= m[0] < gone[1])]
    said = import_bag(bag.close(), task, tmp_path / "y.zarr", nothing)
    assert "/camera" in said
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    assert back.n_episodes == 2
    assert back.episode(1)["camera"][0, 0, 0, 0] == 20


def test_a_folder_of_bags_becomes_one_recording(tmp_path: Path) -> None:
    task = small_task()
    for k in range(3):
        (tmp_path / "bags").mkdir(exist_ok=True)
        bag = Bag(tmp_path / "bags" / f"nr_{k}")
        bag.demonstrate(task, T0 - k * 10**12, 5 + k)
        bag.close()
    (tmp_path / "bags" / "notes.txt").write_text("not a bag")
    (tmp_path / "bags" / "killed.unfinished.mcap").write_bytes(b"half of one")
    assert import_bag(tmp_path / "bags", task, tmp_path / "y.zarr", nothing).startswith("3 episodes")
    infos = ReplayBuffer.open(tmp_path / "y.zarr").episode_info
    assert [info["bag"] for info in infos] == ["nr_0", "nr_1", "nr_2"]


def refused(source: Path, tmp_path: Path, *words: str, task: TaskSpec | None = None) -> None:
    with pytest.raises(UserError) as caught:
        import_bag(source, task or small_task(), tmp_path / "y.zarr", nothing)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "y.zarr").exists() and not list(tmp_path.glob(".y.zarr*"))


def test_what_a_bag_lacks_is_said_with_what_it_has(tmp_path: Path) -> None:
    task, bag = small_task(), Bag(tmp_path / "bag")
    bag.demonstrate(task, T0, 5)
    bag.messages = [m for m in bag.messages if m[1] != "/joints"]
    refused(bag.close(), tmp_path, "has no /joints", "/camera (sensor_msgs/msg/Image)")


def test_another_type_on_a_topic_is_refused(tmp_path: Path) -> None:
    bag = Bag(tmp_path / "bag")
    bag.demonstrate(small_task(), T0, 5)
    bag.messages = [m for m in bag.messages if m[1] != "/camera"]
    bag.put(T0, "/camera", "sensor_msgs/msg/JointState", JointState())
    refused(bag.close(), tmp_path, "/camera has type sensor_msgs/msg/JointState", "sensor_msgs/msg/Image")


def test_messages_without_stamps_and_pictures_of_another_size_give_no_episode_and_the_reason(
    tmp_path: Path,
) -> None:
    task, bag = small_task(), Bag(tmp_path / "bag")
    for k in range(5):
        spec = task.observations["pose"]
        message = encode_observation(np.zeros(3, np.float32), spec, T0)
        message.header.stamp = to_stamp(0)
        bag.put(T0 + k, spec.topic, spec.type, message)
        small = task.observations["camera"].model_copy(update={"shape": (4, 4, 3)})
        picture = encode_observation(np.zeros((4, 4, 3), np.uint8), small, T0 + k)
        bag.put(T0 + k, small.topic, small.type, picture)
    bag.put(
        T0, "/command", task.action.type, encode_command([0.0, 0.0], ["a", "b"], task.action, T0, task.dt_ns)
    )
    refused(bag.close(), tmp_path, "no episode came of it", "10 messages refused")


def test_files_outside_of_the_bag_are_not_opened(tmp_path: Path) -> None:
    bag = Bag(tmp_path / "bag")
    bag.demonstrate(small_task(), T0, 5)
    path = bag.close()
    (file,) = path.glob("*.mcap")
    shutil.move(file, tmp_path / "elsewhere.mcap")
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(text.replace(file.name, "../elsewhere.mcap"))
    refused(path, tmp_path, "../elsewhere.mcap, which is outside of the bag")


def test_a_chunk_that_claims_to_expand_beyond_reason_is_not_opened(tmp_path: Path) -> None:
    record(tmp_path / "x.zarr", small_task(), [4])
    export_mcap(ReplayBuffer.open(tmp_path / "x.zarr"), [0], tmp_path / "x.mcap", nothing)
    content = bytearray((tmp_path / "x.mcap").read_bytes())
    at = 8
    while content[at] != 0x06:
        at += 9 + int.from_bytes(content[at + 1 : at + 9], "little")
    content[at + 9 + 16 : at + 9 + 24] = struct.pack("<Q", 2**40)
    (tmp_path / "bomb.mcap").write_bytes(content)
    refused(tmp_path / "bomb.mcap", tmp_path, "claims to expand", str(2**40))


@pytest.mark.parametrize("name", ["nothing.txt", "x.mcap", "x.db3"])
def test_what_is_no_bag_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89MCAP0\r\n no more" if name.endswith("mcap") else b"something else")
    refused(tmp_path / name, tmp_path, name)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "holds no bag")


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_damaged_bags_give_a_sound_recording_or_a_reason_and_nothing_else(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    task = small_task()
    bag = Bag(tmp_path / "bag", plugin)
    bag.demonstrate(task, T0, 4)
    (file,) = [f for f in bag.close().iterdir() if f.suffix in (".mcap", ".db3")]
    whole, draw, reasons = file.read_bytes(), random.Random(0), 0
    damaged = tmp_path / f"damaged{file.suffix}"
    cases = [whole[: draw.randrange(len(whole))] for _ in range(15)]
    for _ in range(45):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 8])):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        cases.append(bytes(content))
    for number, content in enumerate(cases):
        damaged.write_bytes(content)
        out = tmp_path / f"{number}.zarr"
        try:
            import_bag(damaged, task, out, nothing)
        except UserError as error:
            reasons += 1
            assert str(damaged) in str(error)
            assert not out.exists()
        else:
            assert ReplayBuffer.open(out).n_steps > 0
    assert reasons >= 10


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"event": "begin"}', '{"event": "begin", "index": 0, "begin_ns": 1e300}', "[" * 50_000]
    + [
        '{"event": "begin", "index": 0, "begin_ns": 1, "more": 2}',
        '{"event": "x", "index": 0, "begin_ns": 1}',
    ],
)
def test_a_mark_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected|characters"):
        EpisodeMark.from_json(text)


def test_marks_survive_their_text(tmp_path: Path) -> None:
    mark = EpisodeMark("end", 3, T0, T0 + 1, 7, True, {"operator": 'an "other"'})
    assert EpisodeMark.from_json(mark.to_json()) == mark
    record(tmp_path / "x.zarr", small_task(), [3])
    export_mcap(ReplayBuffer.open(tmp_path / "x.zarr"), [0], tmp_path / "x.mcap", nothing)
    assert len(list(messages_of(tmp_path / "x.mcap", [MARK_TOPIC]))) == 2


def as_humble_wrote_it(path: Path) -> Path:
    """A SQLite bag turned into one of version 5, which has no definitions of its types."""
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
        database.execute("UPDATE schema SET schema_version = 3")
    database.close()
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    said = metadata["rosbag2_bagfile_information"]
    said["version"] = 5
    for topic in said["topics_with_message_count"]:
        topic["topic_metadata"].pop("type_description_hash")
        topic["topic_metadata"]["offered_qos_profiles"] = ""
    for name in ("ros_distro", "custom_data"):
        said.pop(name, None)
    said["relative_file_paths"] = [f"{path.name}/{file.name}"]
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return path


def test_a_bag_of_an_older_ros_is_read_though_it_defines_no_types(tmp_path: Path) -> None:
    task, bag = small_task(), Bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    bag.demonstrate(task, T0, 6)
    path = as_humble_wrote_it(bag.close())
    assert import_bag(path, task, tmp_path / "x.zarr", nothing).startswith("1 episodes")
    (file,) = path.glob("*.db3")
    assert import_bag(file, task, tmp_path / "y.zarr", nothing).startswith("1 episodes")
    assert ReplayBuffer.open(tmp_path / "x.zarr").digest() == ReplayBuffer.open(tmp_path / "y.zarr").digest()


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_compressed_bag_gives_the_same_rows(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    task, digests = small_task(), []
    for name in ("plain", "compressed"):
        bag = Bag(tmp_path / name, plugin, mode if name == "compressed" else None)
        bag.demonstrate(task, T0, 6)
        import_bag(bag.close(), task, tmp_path / f"{name}.zarr", nothing)
        digests.append(ReplayBuffer.open(tmp_path / f"{name}.zarr").digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["bag_0.db3.zstd", "bag_0.mcap.zstd"])
def test_a_compressed_file_that_expands_beyond_reason_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bag_files, "MAX_CHUNK_BYTES", 2**20)
    bag = Bag(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE)
    bag.demonstrate(small_task(), T0, 2)
    path = bag.close()
    (file,) = path.glob("*.zstd")
    file.unlink()
    (path / name).write_bytes(zstandard.compress(bytes(2**26)))
    text = (path / "metadata.yaml").read_text().replace(file.name, name)
    (path / "metadata.yaml").write_text(text)
    refused(path, tmp_path, name, "which no bag does")


def test_a_compressed_message_that_expands_beyond_reason_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_files, "MAX_CHUNK_BYTES", 2**20)
    bag = Bag(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    bag.demonstrate(small_task(), T0, 2)
    path = bag.close()
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = ?", (zstandard.compress(bytes(2**26)),))
    database.close()
    refused(path, tmp_path, "expands to more than 1048576")


@pytest.mark.parametrize("packed", ["zstd", "zstd twice", "lz4"])
def test_a_chunk_that_lies_about_its_size_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: str
) -> None:
    monkeypatch.setattr(bag_files, "MAX_CHUNK_BYTES", 2**20)
    name, content = packed.split()[0].encode(), zstandard.compress(bytes(2**23))
    if packed == "lz4":
        content = lz4.frame.compress(bytes(2**23))
    elif packed == "zstd twice":
        content = zstandard.compress(b"x") + content
    chunk = struct.pack("<QQQI", 0, 0, 10, 0) + struct.pack("<I", len(name)) + name
    chunk += struct.pack("<Q", len(content)) + content
    head = b"\x89MCAP0\r\n" + b"\x01" + struct.pack("<QII", 8, 0, 0)
    (tmp_path / "lie.mcap").write_bytes(head + b"\x06" + struct.pack("<Q", len(chunk)) + chunk)
    refused(tmp_path / "lie.mcap", tmp_path, "though it claims 10")


def with_another_type(path: Path, plugin: StoragePlugin, topic: str, definition: str) -> Path:
    """The bag in `path` with a topic of a type that nobody here knows."""
    bag = Bag(path, plugin)
    bag.demonstrate(small_task(), T0, 5)
    bag.messages = [m for m in bag.messages if m[1] != topic]
    bag.others = [(T0 + 1, topic, "somebody_msgs/msg/Thing", definition, b"\x00\x01\x00\x00\x07")]
    return bag.close()


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("definition", ["float64 x", "", "no_such_msgs/Type t", "\x00{{ not a definition"])
def test_a_type_that_nobody_knows_matters_only_on_a_topic_that_is_needed(
    tmp_path: Path, plugin: StoragePlugin, definition: str
) -> None:
    beside = with_another_type(tmp_path / "beside", plugin, "/other", definition)
    assert import_bag(beside, small_task(), tmp_path / "x.zarr", nothing).startswith("1 episodes")
    needed = with_another_type(tmp_path / "needed", plugin, "/joints", definition)
    refused(needed, tmp_path, "/joints has type somebody_msgs/msg/Thing", "sensor_msgs/msg/JointState")


def test_a_needed_topic_with_two_types_is_refused(tmp_path: Path) -> None:
    bag = Bag(tmp_path / "bag")
    bag.demonstrate(small_task(), T0, 5)
    bag.others = [(T0 + 1, "/joints", "somebody_msgs/msg/Thing", "float64 x", b"\x00\x01\x00\x00\x07")]
    refused(bag.close(), tmp_path, "has type somebody_msgs/msg/Thing and sensor_msgs/msg/JointState")
