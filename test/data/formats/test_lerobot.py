from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.formats import lerobot_export
from dp_ros.data.formats.lerobot_export import export_dataset
from dp_ros.data.formats.lerobot_import import import_dataset
from dp_ros.data.formats.video import VideoWriter, read_frames
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec, load_task
from test.data.recorded import small_task

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def even_task(**changes: Any) -> TaskSpec:
    streams = small_task().model_dump(mode="json")["observations"]
    streams["camera"]["shape"] = [64, 80, 3]
    return small_task(**{"observations": streams, **changes})


TASK = even_task()
LENGTHS = [6, 1, 9]


def nothing() -> None:
    pass


def picture(shape: tuple[int, ...], k: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth, and different at each step."""
    rough = np.random.default_rng(k).integers(0, 256, shape, dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(rough, (15, 15), 4), np.uint8)


def record(
    path: Path, task: TaskSpec = TASK, lengths: list[int] = LENGTHS, takeover: bool = False
) -> ReplayBuffer:
    draw = np.random.default_rng(0)
    with EpisodeWriter(path, task, takeover=takeover) as writer:
        for number, length in enumerate(lengths):
            for k in range(length):
                row: dict[str, Any] = {
                    "action": draw.normal(size=task.action.shape),
                    "timestamp": k / task.rate_hz,
                }
                for key, spec in task.observations.items():
                    row[key] = (
                        picture(tuple(spec.shape), k) if spec.is_image else draw.normal(size=spec.shape)
                    )
                if takeover:
                    row["takeover"] = np.uint8(k % 3 == 0)
                writer.add(row)
            success = [None, True, False][number % 3]
            writer.save(
                number + 5, success=success, info={"operator": "anna", "instruction": f"push {number % 2}"}
            )
    return ReplayBuffer.open(path)


def psnr(a: Any, b: Any) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("codec", ["av1", "h264", "lossless"])
@pytest.mark.parametrize("takeover", [False, True])
def test_there_and_back_vectors_are_equal_and_pictures_within_the_error_of_the_codec(
    tmp_path: Path, codec: str, takeover: bool
) -> None:
    given = record(tmp_path / "x.zarr", takeover=takeover)
    export_dataset(given, range(3), tmp_path / "set", nothing, codec=codec)
    import_dataset(tmp_path / "set", TASK, tmp_path / "y.zarr", nothing)
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    assert back.keys() == given.keys()
    for key in set(given.keys()) - {"camera", "timestamp"}:
        np.testing.assert_array_equal(back[key], given[key], key)
    np.testing.assert_allclose(back["timestamp"], given["timestamp"], atol=1e-9)
    assert back.episode_ends.tolist() == [6, 7, 16]
    assert back.episode_seeds.tolist() == [5, 6, 7]
    assert back.episode_success.tolist() == [-1, 1, 0]
    assert back.episode_info == given.episode_info
    if codec == "lossless":
        np.testing.assert_array_equal(back["camera"], given["camera"])
    else:
        assert psnr(back["camera"], given["camera"]) > 28
        for k in range(16):  # each picture is that of its own step
            errors = [psnr(back["camera"][k], given["camera"][j]) for j in range(16)]
            assert max(errors) - errors[k] < 1e-9


def test_several_vector_streams_become_one_state_and_come_apart_again(tmp_path: Path) -> None:
    streams = small_task().model_dump(mode="json")["observations"]
    pose = streams["pose"]
    task = small_task(
        observations={"pose": pose, "more": {**pose, "topic": "/more", "names": ["x", "y"], "shape": [2]}}
    )
    given = record(tmp_path / "x.zarr", task)
    export_dataset(given, [2, 0], tmp_path / "set", nothing)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    names = ["pose.a", "pose.b", "pose.c", "more.x", "more.y"]
    assert info["features"]["observation.state"]["names"] == names
    import_dataset(tmp_path / "set", task, tmp_path / "y.zarr", nothing)
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    for key in ("pose", "more", "action"):
        np.testing.assert_array_equal(back[key], np.concatenate([given[key][7:], given[key][:6]]))


def test_episodes_go_on_in_further_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_export, "VIDEO_FILE_BYTES", 10)
    monkeypatch.setattr(lerobot_export, "DATA_FILE_BYTES", 10)
    monkeypatch.setattr(lerobot_export, "FILES_PER_CHUNK", 2)
    given = record(tmp_path / "x.zarr", lengths=[3, 4, 5, 2])
    export_dataset(given, range(4), tmp_path / "set", nothing, codec="lossless")
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) > 2
    assert (tmp_path / "set/data/chunk-001").is_dir()
    import_dataset(tmp_path / "set", TASK, tmp_path / "y.zarr", nothing)
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    for key in ("pose", "camera", "action"):
        np.testing.assert_array_equal(back[key], given[key])


def test_statistics_are_those_of_all_rows(tmp_path: Path) -> None:
    given = record(tmp_path / "x.zarr")
    export_dataset(given, range(3), tmp_path / "set", nothing, codec="h264")
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    for name, key in (("observation.state", "pose"), ("action", "action")):
        np.testing.assert_allclose(stats[name]["mean"], given[key].mean(axis=0, dtype=np.float64), atol=1e-9)
        np.testing.assert_allclose(stats[name]["std"], given[key].astype(np.float64).std(axis=0), atol=1e-9)
        np.testing.assert_array_equal(stats[name]["max"], given[key].max(axis=0))
    assert np.shape(stats["observation.images.camera"]["mean"]) == (3, 1, 1)
    assert stats["action"]["count"] == [16]


def test_pandas_takes_the_tasks_for_the_index_of_their_table(tmp_path: Path) -> None:
    export_dataset(record(tmp_path / "x.zarr"), range(3), tmp_path / "set", nothing, codec="h264")
    table = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1], "task": ["push 0", "push 1"]}
    said = table.schema.pandas_metadata
    assert said["index_columns"] == ["task"]
    assert [column["field_name"] for column in said["columns"]] == ["task_index", "task"]


def public_dataset(folder: Path, length: int = 12) -> Path:
    """A data set as lerobot/pusht has it: other names, rewards, and two episodes in one video."""
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    videos = folder / "videos/observation.image/chunk-000"
    videos.mkdir(parents=True)
    with VideoWriter(videos / "file-000.mp4", "lossless", 96, 96, 10) as video:
        for k in range(length):
            video.add(picture((96, 96, 3), k))
    state = [[float(k), float(-k)] for k in range(length)]
    half = length // 2
    numbers = [int(k >= half) for k in range(length)]
    columns = {
        "observation.state": state,
        "action": state,
        "episode_index": numbers,
        "next.reward": [0.5] * length,
    }
    columns |= {"frame_index": [k % half for k in range(length)], "index": list(range(length))}
    pq.write_table(pa.table(columns), folder / "data/chunk-000/file-000.parquet")
    episodes = [
        {
            "episode_index": n,
            "tasks": ["Push the T."],
            "length": half,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "videos/observation.image/chunk_index": 0,
            "videos/observation.image/file_index": 0,
            "videos/observation.image/from_timestamp": n * half / 10,
        }
        for n in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    features = {
        "observation.image": {"dtype": "video", "shape": [96, 96, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
    }
    info = {"codebase_version": "v3.0", "fps": 10, "features": features}
    paths = {"data_path": lerobot_export.DATA, "video_path": lerobot_export.VIDEO}
    (folder / "meta/info.json").write_text(json.dumps(info | paths))
    return folder


def test_a_public_data_set_is_read_with_a_mapping_of_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, task = public_dataset(tmp_path / "pusht"), load_task("pusht_image")
    streams = {"camera": next(k for k, s in task.observations.items() if s.is_image)}
    vector = next(k for k, s in task.observations.items() if not s.is_image)
    arguments = [
        "data",
        "import",
        str(source),
        str(tmp_path / "y.zarr"),
        "--from",
        "lerobot",
        "--task",
        "pusht_image",
    ]
    mapping = ["--map", f"{streams['camera']}=observation.image", f"{vector}=observation.state"]
    assert main([*arguments, *mapping]) == 0
    assert "2 episodes, 12 steps" in capsys.readouterr().out
    back = ReplayBuffer.open(tmp_path / "y.zarr")
    assert back.episode(1)[vector][:, 0].tolist() == [6, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(back.episode(1)[streams["camera"]][2], picture((96, 96, 3), 8))
    assert back.episode_info[0] == {"instruction": "Push the T."}


def test_pictures_in_the_tables_are_read_too(tmp_path: Path) -> None:
    source = public_dataset(tmp_path / "pusht", 4)
    path = source / "data/chunk-000/file-000.parquet"
    encoded = [cv2.imencode(".png", picture((96, 96, 3), k)[..., ::-1])[1].tobytes() for k in range(4)]
    pictures = pa.array([{"bytes": data, "path": None} for data in encoded])
    pq.write_table(pq.read_table(path).add_column(0, "observation.image", pictures), path)
    change_info(source, lambda info: info["features"]["observation.image"].update(dtype="image"))
    task = load_task("pusht_image")
    import_dataset(source, task, tmp_path / "y.zarr", nothing)
    camera = ReplayBuffer.open(tmp_path / "y.zarr")[task.anchor]
    np.testing.assert_array_equal(camera, [picture((96, 96, 3), k) for k in range(4)])


def change_info(source: Path, change: Any) -> None:
    info = json.loads((source / "meta/info.json").read_text())
    change(info)
    (source / "meta/info.json").write_text(json.dumps(info))


def refused(source: Path, tmp_path: Path, *words: str, names: dict[str, str] | None = None) -> None:
    with pytest.raises(UserError) as caught:
        import_dataset(source, load_task("pusht_image"), tmp_path / "y.zarr", nothing, names=names)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "y.zarr").exists() and not list(tmp_path.glob(".y.zarr*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.update(codebase_version="v2.1"), ("version v2.1", "convert_dataset_v21_to_v30")),
        (lambda i: i.update(fps=30), ("30 frames a second", "rate_hz")),
        (lambda i: i.update(fps="fast"), ("fast frames",)),
        (lambda i: i.update(features=[]), ("lists no features",)),
        (lambda i: i["features"].pop("action"), ("has no action", "--map")),
        (lambda i: i["features"]["action"].update(shape=[7]), ("action has shape [7]", "[2]")),
        (lambda i: i["features"]["observation.image"].update(dtype="float32"), ("is a camera",)),
        (lambda i: i.update(data_path="../../etc/passwd"), ("outside of the data set",)),
        (lambda i: i.update(video_path="/etc/{video_key}"), ("outside of the data set",)),
        (lambda i: i.update(data_path="{chunk_index.__class__}{nothing}"), ("cannot be filled in",)),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, change: Any, words: tuple[str, ...]) -> None:
    source = public_dataset(tmp_path / "pusht")
    change_info(source, change)
    refused(source, tmp_path, *words)


def test_tables_and_videos_that_say_other_than_the_rest_are_refused(tmp_path: Path) -> None:
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    for column, value, words in (
        ("length", 7, "has 6 rows, meta/episodes says 7"),
        ("length", 10**12, "expected 0 to"),
        ("data/file_index", 3, "is not there"),
        ("videos/observation.image/from_timestamp", 0.9, "ends after"),
        ("videos/observation.image/from_timestamp", float("nan"), "from_timestamp"),
    ):
        source = public_dataset(tmp_path / f"{column}{value}".replace("/", "_"))
        rows = pq.read_table(source / episodes).to_pylist()
        rows[1][column] = value
        pq.write_table(pa.Table.from_pylist(rows), source / episodes)
        refused(source, tmp_path, words)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = public_dataset(tmp_path / "pusht")
    path = source / "data/chunk-000/file-000.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[3]["action"] = [float("nan"), 0.0]
    pq.write_table(pa.Table.from_pylist(rows), path)
    refused(source, tmp_path, "not a finite number")


def test_a_mapping_to_nothing_is_refused(tmp_path: Path) -> None:
    source = public_dataset(tmp_path / "pusht")
    refused(source, tmp_path, "wheel", "no stream", names={"wheel": "action"})
    assert (
        main(
            [
                "data",
                "import",
                str(source),
                "y.zarr",
                "--from",
                "lerobot",
                "--task",
                "pusht_image",
                "--map",
                "x",
            ]
        )
        == 2
    )


def test_depth_and_odd_sizes_are_not_forced_into_a_video(tmp_path: Path) -> None:
    depth = {"topic": "/depth", "type": "sensor_msgs/msg/Image", "encoding": "mono16", "shape": [8, 8, 1]}
    streams = TASK.model_dump(mode="json")["observations"]
    task = even_task(observations={**streams, "depth": {**depth, "max_age_s": 0.2}})
    with EpisodeWriter(tmp_path / "d.zarr", task) as writer:
        row = {
            "pose": [0, 0, 0.0],
            "camera": picture((64, 80, 3), 0),
            "depth": np.zeros((8, 8, 1), np.uint16),
        }
        writer.add({**row, "action": [0.0, 0.0], "timestamp": 0.0})
        writer.save()
    with pytest.raises(UserError, match="depth is mono16"):
        export_dataset(ReplayBuffer.open(tmp_path / "d.zarr"), [0], tmp_path / "set", nothing)
    odd = record(tmp_path / "odd.zarr", small_task(), [2])
    with pytest.raises(UserError, match="96x101: av1 needs an even"):
        export_dataset(odd, [0], tmp_path / "set", nothing)
    assert not (tmp_path / "set").exists()
    export_dataset(odd, [0], tmp_path / "set", nothing, codec="lossless")


def test_without_pyarrow_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = record(tmp_path / "x.zarr", lengths=[2])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        export_dataset(given, [0], tmp_path / "set", nothing)


def test_damaged_data_sets_give_a_sound_recording_or_a_reason_and_nothing_else(tmp_path: Path) -> None:
    whole, draw, reasons = public_dataset(tmp_path / "whole", 4), random.Random(0), 0
    task = load_task("pusht_image")
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    for number in range(120):
        source, out = tmp_path / "damaged", tmp_path / f"{number}.zarr"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(whole, source)
        path = source / draw.choice(files)
        content = bytearray(path.read_bytes())
        if draw.random() < 0.3:
            content = content[: draw.randrange(len(content))]
        for _ in range(draw.choice([1, 3, 20])):
            if content:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            import_dataset(source, task, out, nothing)
        except UserError:
            reasons += 1
            assert not out.exists()
        else:
            assert ReplayBuffer.open(out).n_steps > 0
    assert reasons > 40


def test_a_video_gives_the_pictures_of_its_times(tmp_path: Path) -> None:
    pictures = [picture((32, 48, 3), k) for k in range(20)]
    with VideoWriter(tmp_path / "x.mp4", "lossless", 32, 48, 30) as video:
        for one in pictures:
            video.add(one)
        assert video.seconds == pytest.approx(20 / 30)
    np.testing.assert_array_equal(list(read_frames(tmp_path / "x.mp4", 7 / 30, 5, 30)), pictures[7:12])
    with pytest.raises(UserError, match="ends after 3 of 5"):
        list(read_frames(tmp_path / "x.mp4", 17 / 30, 5, 30))
    (tmp_path / "y.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a video"):
        list(read_frames(tmp_path / "y.mp4", 0, 1, 30))
