from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dp_ros.data.episode_writer import EpisodeWriter, set_aside_path
from dp_ros.data.jpeg_codec import JpegCodec
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import PictureStorage
from dp_ros.data.surgery import copy_episodes
from dp_ros.errors import UserError
from test.data.recorded import small_task

TASK = small_task()
READ_WITH_STOCK_ZARR = """
import sys, imagecodecs.numcodecs, numpy, zarr
imagecodecs.numcodecs.register_codecs(verbose=False)
numpy.save(sys.argv[2], zarr.open(sys.argv[1], mode="r")["data/camera"][:])
assert "dp_ros" not in sys.modules
"""


def smooth_episode(length: int, seed: int) -> list[dict[str, object]]:
    draw = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for k in range(length):
        rough = draw.integers(0, 256, (96, 101, 3), dtype=np.uint8)
        picture = cv2.GaussianBlur(rough, (31, 31), 0)
        rows.append(
            {"pose": draw.normal(size=3), "camera": picture, "action": [0.0, 0.1], "timestamp": k / 10}
        )
    return rows


def record(path: Path, lengths: list[int], quality: int | None = 90, first_seed: int = 0) -> None:
    with EpisodeWriter(path, TASK, storage=PictureStorage(jpeg_quality=quality)) as writer:
        for seed, length in enumerate(lengths, start=first_seed):
            for row in smooth_episode(length, seed):
                writer.add(row)  # type: ignore[arg-type]
            writer.save()


def test_pictures_come_back_within_the_error_of_jpeg_and_everything_else_exactly(tmp_path: Path) -> None:
    record(tmp_path / "x.zarr", [5, 3])
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    rows = smooth_episode(5, 0) + smooth_episode(3, 1)
    given = np.stack([row["camera"] for row in rows])  # type: ignore[arg-type]
    error = np.abs(buffer["camera"].astype(int) - given)
    assert 0 < error.max() < 16 and error.mean() < 2.0
    np.testing.assert_array_equal(buffer["pose"], np.stack([r["pose"] for r in rows]).astype(np.float32))  # type: ignore[arg-type]
    assert buffer.storage.jpeg_quality == 90
    assert ReplayBuffer.open(tmp_path / "x.zarr").digest() == buffer.digest()


def test_the_quality_decides_how_much_room_they_take(tmp_path: Path) -> None:
    sizes = {}
    for quality in (None, 95, 40):
        record(tmp_path / f"{quality}.zarr", [6], quality)
        sizes[quality] = sum(file.stat().st_size for file in (tmp_path / f"{quality}.zarr").rglob("*.0.0.0"))
    assert sizes[None] > 2 * sizes[95] > 2 * sizes[40]


def test_stock_zarr_with_imagecodecs_reads_the_same_pictures(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    record(tmp_path / "x.zarr", [5])
    read = [sys.executable, "-c", READ_WITH_STOCK_ZARR, str(tmp_path / "x.zarr"), str(tmp_path / "read.npy")]
    subprocess.run(read, check=True, cwd=tmp_path, timeout=60)
    # Two decoders round differently, by one at most.
    ours = ReplayBuffer.open(tmp_path / "x.zarr")["camera"].astype(int)
    assert np.abs(np.load(tmp_path / "read.npy") - ours).max() <= 1


def test_episodes_are_copied_deleted_and_set_aside_without_being_encoded_again(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    record(path, [4, 3])
    whole = ReplayBuffer.open(path)["camera"]
    copy_episodes([(ReplayBuffer.open(path), [1, 0])], tmp_path / "copy.zarr")
    np.testing.assert_array_equal(
        ReplayBuffer.open(tmp_path / "copy.zarr")["camera"], np.concatenate([whole[4:], whole[:4]])
    )
    with EpisodeWriter(path, TASK) as writer:
        writer.delete_last()
    np.testing.assert_array_equal(ReplayBuffer.open(set_aside_path(path))["camera"], whole[4:])
    assert sorted(int(f.name.split(".")[0]) for f in (path / "data/camera").glob("*.0.0.0")) == [0, 1, 2, 3]


def test_an_unfinished_episode_is_set_aside_as_it_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dp_ros.data.episode_writer._FLUSH_BYTES", 2000)
    path = tmp_path / "x.zarr"
    record(path, [2])
    with EpisodeWriter(path, TASK) as writer:
        for row in smooth_episode(6, 1):
            writer.add(row)  # type: ignore[arg-type]
        shutil.copytree(path, tmp_path / "killed.zarr")
    EpisodeWriter(tmp_path / "killed.zarr", TASK).close()
    aside = ReplayBuffer.open(tmp_path / "killed.set_aside.zarr")
    codec = JpegCodec(90)
    expected = [codec.decode(codec.encode(row["camera"])) for row in smooth_episode(6, 1)]
    assert len(aside["camera"]) > 2
    np.testing.assert_array_equal(aside["camera"], expected[: len(aside["camera"])])


def test_beside_a_lossless_recording_copies_are_lossless(tmp_path: Path) -> None:
    record(tmp_path / "a.zarr", [3])
    record(tmp_path / "b.zarr", [2], None, first_seed=5)
    buffers = [ReplayBuffer.open(tmp_path / name) for name in ("a.zarr", "b.zarr")]
    copy_episodes([(buffer, range(buffer.n_episodes)) for buffer in buffers], tmp_path / "both.zarr")
    both = ReplayBuffer.open(tmp_path / "both.zarr")
    assert both.storage.kind == "lossless"
    np.testing.assert_array_equal(both["camera"], np.concatenate([b["camera"] for b in buffers]))


def test_depth_stays_lossless(tmp_path: Path) -> None:
    depth = {"topic": "/depth", "type": "sensor_msgs/msg/Image", "encoding": "mono16", "shape": [8, 9, 1]}
    streams = {"depth": {**depth, "max_age_s": 0.2}}
    task = small_task(observations={**small_task().model_dump(mode="json")["observations"], **streams})
    with EpisodeWriter(tmp_path / "x.zarr", task, storage=PictureStorage(jpeg_quality=50)) as writer:
        picture = np.arange(72, dtype=np.uint16).reshape(8, 9, 1) * 900
        writer.add({**smooth_episode(1, 0)[0], "depth": picture})  # type: ignore[dict-item]
        writer.save()
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / "x.zarr")["depth"][0], picture)


def test_a_picture_that_is_damaged_or_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    record(path, [3])
    (path / "data/camera/1.0.0.0").unlink()
    with pytest.raises(
        UserError, match=r"data/camera lacks 1 chunk\(s\) of its rows, first that of rows 1 to 1"
    ):
        ReplayBuffer.open(path).stored_episode(0)
    with pytest.raises(ValueError, match="not a JPEG"):
        JpegCodec().decode(b"nothing of the kind")


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_is_none_is_refused_and_nothing_is_made(tmp_path: Path, quality: int) -> None:
    with pytest.raises(UserError, match=f"got {quality}, expected 1 to 100"):
        EpisodeWriter(tmp_path / "x.zarr", TASK, storage=PictureStorage(jpeg_quality=quality))
    assert list(tmp_path.iterdir()) == []
