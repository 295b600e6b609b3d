"""Recordings whose pictures are video keep every property of the others, within the error of the codec."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr

from dp_ros.cli.main import main
from dp_ros.data import episode_writer, video_codec
from dp_ros.data.episode_writer import EpisodeWriter, set_aside_path
from dp_ros.data.frames import map_frames
from dp_ros.data.lock import RecordingError
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import LOSSLESS, PictureStorage
from dp_ros.data.surgery import copy_episodes
from dp_ros.data.video_codec import EncodedFrame, FrameEncoder, VideoCodec, packed, unpacked
from dp_ros.errors import UserError
from test.data.recorded import small_task

TASK = small_task()
VIDEO = PictureStorage(video_crf=18)


def moving_episode(length: int, seed: int) -> list[dict[str, Any]]:
    """A camera that goes past something, so that pictures follow from each other."""
    draw = np.random.default_rng(seed)
    scene = cv2.GaussianBlur(draw.integers(0, 256, (96, 400, 3), dtype=np.uint8), (21, 21), 0)
    return [
        {
            "pose": draw.normal(size=3),
            "camera": scene[:, 3 * k : 3 * k + 101].copy(),
            "action": [0.0, 0.1],
            "timestamp": k / 10,
        }
        for k in range(length)
    ]


def record(path: Path, lengths: list[int], storage: PictureStorage = VIDEO, first_seed: int = 0) -> None:
    with EpisodeWriter(path, TASK, storage=storage) as writer:
        for seed, length in enumerate(lengths, start=first_seed):
            for row in moving_episode(length, seed):
                writer.add(row)
            writer.save(seed)


def given(lengths: list[int], first_seed: int = 0) -> np.ndarray[Any, Any]:
    episodes = [moving_episode(length, seed) for seed, length in enumerate(lengths, start=first_seed)]
    return np.stack([row["camera"] for episode in episodes for row in episode])


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "data/camera").glob("*.0.0.0"))}


def test_pictures_come_back_within_the_error_of_the_codec_and_everything_else_exactly(tmp_path: Path) -> None:
    lengths = [20, 5, 33]
    record(tmp_path / "x.zarr", lengths)
    buffer = ReplayBuffer.open(tmp_path / "x.zarr")
    error = np.abs(buffer["camera"].astype(int) - given(lengths))
    assert 0 < error.max() < 24 and error.mean() < 2.0
    assert error.reshape(58, -1).mean(axis=1).max() < 2.5  # in every picture
    poses = np.stack([row["pose"] for s, n in enumerate(lengths) for row in moving_episode(n, s)])
    np.testing.assert_array_equal(buffer["pose"], poses.astype(np.float32))
    assert buffer.storage == VIDEO
    assert ReplayBuffer.open(tmp_path / "x.zarr").digest() == buffer.digest()
    np.testing.assert_array_equal(buffer.rows("camera", 17, 18)[0], buffer["camera"][17])
    assert isinstance(zarr.open(str(tmp_path / "x.zarr"), mode="r")["data/camera"][3:5], np.ndarray)


def test_the_factor_decides_how_much_room_they_take_and_how_far_they_are_off(tmp_path: Path) -> None:
    sizes, errors = [], []
    storages = [
        LOSSLESS,
        PictureStorage(jpeg_quality=90),
        *(PictureStorage(video_crf=c) for c in (10, 25, 40)),
    ]
    for k, storage in enumerate(storages):
        record(tmp_path / f"{k}.zarr", [32], storage)
        sizes.append(sum(map(len, files(tmp_path / f"{k}.zarr").values())))
        pictures = ReplayBuffer.open(tmp_path / f"{k}.zarr")["camera"].astype(int)
        errors.append(float(np.abs(pictures - given([32])).mean()))
    assert sizes == sorted(sizes, reverse=True) and sizes[1] > 3 * sizes[3]
    assert errors[0] == 0 and errors[2] < errors[3] < errors[4]


def test_committed_pictures_never_change_whatever_is_added_discarded_or_deleted_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 3000)  # an episode is written in several pieces
    path = tmp_path / "x.zarr"
    record(path, [5])
    first = ReplayBuffer.open(path)["camera"]
    with EpisodeWriter(path, TASK) as writer:
        for row in moving_episode(9, 8):
            writer.add(row)
        writer.discard()
        for row in moving_episode(30, 1):
            writer.add(row)
        writer.save()
        np.testing.assert_array_equal(ReplayBuffer.open(path)["camera"][:5], first)
        second = ReplayBuffer.open(path)["camera"][5:]
        for row in moving_episode(4, 2):
            writer.add(row)
        writer.save()
        writer.delete_last()
    buffer = ReplayBuffer.open(path)
    np.testing.assert_array_equal(buffer["camera"], np.concatenate([first, second]))
    assert np.abs(second.astype(int) - given([30], 1)).max() < 24
    aside = ReplayBuffer.open(set_aside_path(path))
    assert aside.storage.kind == "video" and np.abs(aside["camera"].astype(int) - given([4], 2)).max() < 24
    assert {frame.index for frame in unpacked(files(path)["0.0.0.0"])[:6]} == {
        0,
        1,
        2,
        3,
        4,
    }  # anew in each episode


def test_written_in_pieces_or_at_once_the_files_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "once.zarr", [7, 40])
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 1)
    record(tmp_path / "pieces.zarr", [7, 40])
    assert files(tmp_path / "once.zarr") == files(tmp_path / "pieces.zarr")


def test_episodes_are_copied_without_being_encoded_again_and_copies_of_copies_do_not_grow(
    tmp_path: Path,
) -> None:
    path = tmp_path / "0.zarr"
    lengths = [21, 3, 18, 9]
    record(path, lengths)
    whole, size = ReplayBuffer.open(path), sum(map(len, files(path).values()))
    order = [2, 0, 3, 1]
    for generation in range(1, 6):
        copy = tmp_path / f"{generation}.zarr"
        copy_episodes([(ReplayBuffer.open(tmp_path / f"{generation - 1}.zarr"), order)], copy)
    expected = list(range(4))
    for _ in range(5):
        expected = [expected[k] for k in order]
    last = ReplayBuffer.open(copy)
    for index, original in enumerate(expected):
        np.testing.assert_array_equal(last.episode(index)["camera"], whole.episode(original)["camera"])
    assert sum(map(len, files(copy).values())) < 2 * size


def test_a_recording_of_another_kind_takes_the_pictures_as_they_look(tmp_path: Path) -> None:
    record(tmp_path / "video.zarr", [20])
    record(tmp_path / "plain.zarr", [4], LOSSLESS, first_seed=5)
    buffers = [ReplayBuffer.open(tmp_path / name) for name in ("video.zarr", "plain.zarr")]
    copy_episodes([(buffer, range(buffer.n_episodes)) for buffer in buffers], tmp_path / "both.zarr")
    both = ReplayBuffer.open(tmp_path / "both.zarr")
    assert both.storage == LOSSLESS
    np.testing.assert_array_equal(both["camera"], np.concatenate([b["camera"] for b in buffers]))
    frames = buffers[0].stored_episode(0)["camera"]
    assert isinstance(frames[17], EncodedFrame)
    np.testing.assert_array_equal(frames[17].decoded(), buffers[0]["camera"][17])


def test_an_unfinished_episode_is_set_aside_as_it_was_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_writer, "_FLUSH_BYTES", 3000)
    path = tmp_path / "x.zarr"
    record(path, [2])
    with EpisodeWriter(path, TASK) as writer:
        for row in moving_episode(30, 1):
            writer.add(row)
        shutil.copytree(path, tmp_path / "killed.zarr")
        writer.save()
    EpisodeWriter(tmp_path / "killed.zarr", TASK).close()
    aside = ReplayBuffer.open(tmp_path / "killed.set_aside.zarr")
    assert aside.n_steps > 16
    np.testing.assert_array_equal(
        aside["camera"], ReplayBuffer.open(path).episode(1)["camera"][: aside.n_steps]
    )


def test_a_step_that_is_refused_leaves_no_gap_in_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = moving_episode(12, 0)
    with EpisodeWriter(tmp_path / "x.zarr", TASK, storage=VIDEO) as writer:
        for k, row in enumerate(rows):
            if k == 5:
                with pytest.raises(RecordingError, match="not a finite number"):
                    writer.add({**moving_episode(1, 9)[0], "pose": [np.nan, 0.0, 0.0]})
            if k == 8:
                with monkeypatch.context() as patch, contextlib.suppress(ZeroDivisionError):
                    patch.setattr(video_codec, "_as_frame", lambda picture: 1 // 0)
                    writer.add(row)
            writer.add(row)
        writer.save()
    error = np.abs(ReplayBuffer.open(tmp_path / "x.zarr")["camera"].astype(int) - given([12]))
    assert error.max() < 24


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_pictures_and_odd_sizes(channels: int) -> None:
    draw = np.random.default_rng(0)
    pictures = cv2.GaussianBlur(draw.integers(0, 256, (5, 33, 47, channels), dtype=np.uint8)[0], (9, 9), 0)
    pictures = np.stack([pictures.reshape(33, 47, channels)] * 5)
    codec = VideoCodec(12, 8)
    back = codec.decode(codec.encode(pictures))
    assert back.shape == (8, 33, 47, channels) and not back[5:].any()
    assert np.abs(back[:5].astype(int) - pictures).max() < 12


def test_a_segment_ends_with_its_chunk() -> None:
    encoder = FrameEncoder(25, 4)
    frames = [encoder.encode(row["camera"], k + 2) for k, row in enumerate(moving_episode(8, 0))]
    assert [frame.index for frame in frames] == [0, 1, 0, 1, 2, 3, 0, 1]


def chunk() -> bytes:
    encoder = FrameEncoder(30, 16)
    return packed([encoder.encode(row["camera"], k) for k, row in enumerate(moving_episode(4, 0))])


def test_a_damaged_chunk_is_refused_and_never_crashes() -> None:
    whole, draw, refused = chunk(), np.random.default_rng(0), 0
    codec = VideoCodec(30, 16)
    cases = [whole[: draw.integers(len(whole))] for _ in range(40)] + [b"", whole + b"x"]
    for _ in range(120):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 8])):
            content[draw.integers(len(content)) if draw.random() < 0.5 else draw.integers(40)] ^= (
                1 << draw.integers(8)
            )
        cases.append(bytes(content))
    for content in cases:
        try:
            assert codec.decode(content).shape == (16, 96, 101, 3)
        except (ValueError, AssertionError):
            refused += 1
    assert refused > 60
    with pytest.raises(ValueError, match="of 2 rows holds 4 pictures"):
        VideoCodec(30, 2).decode(whole)
    with pytest.raises(ValueError, match="rows holds"):
        VideoCodec(30, 10**9).decode(whole)


def test_a_chunk_that_is_damaged_or_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    record(path, [20])
    (path / "data/camera/1.0.0.0").write_bytes(files(path)["1.0.0.0"][:-40])
    with pytest.raises(UserError, match="data/camera cannot be read"):
        ReplayBuffer.open(path)["camera"]
    (path / "data/camera/1.0.0.0").unlink()
    with pytest.raises(UserError, match=r"data/camera lacks 1 chunk|1\.0\.0\.0 is not there"):
        ReplayBuffer.open(path).stored_episode(0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video_crf": 0}, "video crf: got 0, expected 1 to 51"),
        ({"video_crf": 52}, "video crf: got 52"),
        ({"video_crf": 20, "jpeg_quality": 90}, "not as both"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PictureStorage(**given)


def test_what_reads_recordings_reads_these_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, packed_path = tmp_path / "x.zarr", tmp_path / "x.zarr.zip"
    record(path, [20, 18])
    buffer = ReplayBuffer.open(path)
    assert main(["data", "export", str(path), str(packed_path), "--to", "zip"]) == 0
    assert ReplayBuffer.open(packed_path).digest() == buffer.digest()
    assert ReplayBuffer.open(packed_path).storage == VIDEO
    assert main(["data", "thumbnails", str(path), "--out", str(tmp_path / "sheet.png")]) == 0
    assert main(["data", "check", str(path)]) == 0
    assert main(["data", "info", str(path)]) == 0
    assert "pictures video of crf 18" in " ".join(capsys.readouterr().out.split())
    frames = map_frames(buffer, "camera", buffer.digest())
    np.testing.assert_array_equal(frames, buffer["camera"])
