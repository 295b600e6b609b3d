from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.data.stored_pictures import PictureStorage
from dp_ros.data.surgery import copy_episodes
from dp_ros.errors import UserError
from test.data.recorded import random_episode, small_task

TASK = small_task()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        for seed, length in enumerate([5, 3, 4]):
            for step in random_episode(TASK, length, seed):
                writer.add(step)
            writer.save(seed, success=seed == 1, info={"operator": f"nr {seed}"})
    return tmp_path / "x.zarr"


def pack(folder: Path, out: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(out, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return out


def test_a_zip_is_read_like_the_folder(recording: Path, tmp_path: Path) -> None:
    assert main(["data", "export", str(recording), str(tmp_path / "x.zarr.zip"), "--to", "zip"]) == 0
    folder, packed = ReplayBuffer.open(recording), ReplayBuffer.open(tmp_path / "x.zarr.zip")
    assert packed.digest() == folder.digest()
    assert packed.episode_info == folder.episode_info
    assert packed.episode_success.tolist() == [0, 1, 0]
    assert packed.task is not None and packed.task.digest() == TASK.digest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zarr", "x.zarr.zip"]


def test_stock_zarr_reads_it(recording: Path, tmp_path: Path) -> None:
    main(["data", "export", str(recording), str(tmp_path / "y.zip"), "--to", "zip", "--episodes", "1:"])
    root = zarr.open_group(ZipStore(tmp_path / "y.zip", mode="r"), mode="r")
    assert root["meta/episode_ends"][:].tolist() == [3, 7]
    np.testing.assert_array_equal(root["data/camera"][:], ReplayBuffer.open(recording)["camera"][5:])


def test_the_tools_take_a_zip(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = pack(recording, tmp_path / "x.zip", zipfile.ZIP_DEFLATED)
    assert main(["data", "info", str(packed)]) == 0
    assert "episodes" in capsys.readouterr().out
    assert main(["data", "split", str(packed), "0,2", "--out", str(tmp_path / "y.zarr")]) == 0
    assert ReplayBuffer.open(tmp_path / "y.zarr").episode_seeds.tolist() == [0, 2]
    assert main(["data", "drop", str(packed), "0", "--yes"]) == 2
    with pytest.raises(UserError, match="is a file, episodes are added to folders"):
        EpisodeWriter(packed, TASK)
    assert ReplayBuffer.open(packed).n_episodes == 3


def test_jpeg_pictures_leave_a_zip_as_they_are(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "x.zarr", TASK, storage=PictureStorage(jpeg_quality=80)) as writer:
        for step in random_episode(TASK, 3, 0):
            writer.add(step)
        writer.save()
    packed = ReplayBuffer.open(pack(tmp_path / "x.zarr", tmp_path / "x.zip"))
    copy_episodes([(packed, [0])], tmp_path / "y.zarr")
    np.testing.assert_array_equal(ReplayBuffer.open(tmp_path / "y.zarr")["camera"], packed["camera"])


def test_a_name_that_is_no_zip_or_taken_is_refused(recording: Path, tmp_path: Path) -> None:
    assert main(["data", "export", str(recording), str(tmp_path / "x.tar"), "--to", "zip"]) == 2
    (tmp_path / "there.zip").write_text("mine")
    assert main(["data", "export", str(recording), str(tmp_path / "there.zip"), "--to", "zip"]) == 2
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_a_bomb_is_not_opened(recording: Path, tmp_path: Path) -> None:
    bomb = pack(recording, tmp_path / "bomb.zip")
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/camera/99.0.0.0", bytes(2**27))
    with pytest.raises(UserError, match="data/camera/99.0.0.0 would expand from .* to 134217728 bytes"):
        ReplayBuffer.open(bomb)


@pytest.mark.parametrize("packed", [False, True])
def test_a_chunk_that_claims_to_be_huge_is_not_read(recording: Path, tmp_path: Path, packed: bool) -> None:
    path = recording / "data" / "camera" / ".zarray"
    said: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "chunks": [10**9, 96, 101, 3]}))
    opened = pack(recording, tmp_path / "x.zip") if packed else recording
    with pytest.raises(UserError, match="data/camera says that a chunk has 29088000000000 bytes"):
        ReplayBuffer.open(opened)


def test_a_folder_in_the_zip_is_pointed_out(recording: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "y"), "zip", tmp_path, "x.zarr")
    with pytest.raises(UserError, match="it has it in x.zarr/, so pack what is in that folder"):
        ReplayBuffer.open(tmp_path / "y.zip")


def read_all(path: Path) -> None:
    buffer = ReplayBuffer.open(path)
    for index in range(buffer.n_episodes):
        buffer.episode(index)


def test_truncated_and_damaged_archives_are_refused_or_read_but_nothing_else(
    recording: Path, tmp_path: Path
) -> None:
    whole = pack(recording, tmp_path / "x.zip").read_bytes()
    draw, damaged, refused = random.Random(0), tmp_path / "damaged.zip", 0
    cases = [whole[: draw.randrange(len(whole))] for _ in range(60)]
    for _ in range(200):
        content = bytearray(whole)
        # Most of a zip is pixels; its directory at the end, and headers, are what can go wrong.
        place = draw.randrange(len(content) - 4000, len(content)) if draw.random() < 0.7 else None
        content[draw.randrange(len(content)) if place is None else place] ^= 1 << draw.randrange(8)
        cases.append(bytes(content))
    for content in cases:
        damaged.write_bytes(content)
        try:
            read_all(damaged)
        except UserError as error:
            refused += 1
            assert str(damaged) in str(error)
    assert refused > 100
