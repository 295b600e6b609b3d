from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.formats.rerun import export_rrd, value_names
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.errors import UserError
from dp_ros.task import load_task
from test.data.recorded import random_episode, small_task

pytest.importorskip("rerun")
TASK = small_task()


@pytest.fixture
def recording(tmp_path: Path) -> ReplayBuffer:
    with EpisodeWriter(tmp_path / "x.zarr", TASK) as writer:
        for seed, length in enumerate([5, 3, 4]):
            for step in random_episode(TASK, length, seed):
                writer.add(step)
            writer.save(seed, success=seed == 1, info={"operator": "anna"})
    return ReplayBuffer.open(tmp_path / "x.zarr")


def logged(path: Path, entity: str, column: str) -> tuple[list[int], list[Any]]:
    """Steps and values of an entity, in the order of steps."""
    chunks = pytest.importorskip("rerun.chunk")
    found: list[tuple[int, Any]] = []
    for chunk in chunks.RrdReader(path).stream():
        if str(chunk.entity_path) != f"/{entity}" or chunk.is_static:
            continue
        batch = chunk.to_record_batch()
        values = batch.column(batch.schema.names.index(column)).to_pylist()
        found += zip(batch.column(batch.schema.names.index("step")).to_pylist(), values, strict=True)
    found.sort(key=lambda pair: pair[0])
    return [step for step, _ in found], [value for _, value in found]


def test_values_and_pictures_are_those_of_the_recording(recording: ReplayBuffer, tmp_path: Path) -> None:
    said = export_rrd(recording, range(3), tmp_path / "x.rrd", lambda: None)
    assert said.startswith("3 episodes, 12 steps")
    for entity, key in (("observation/pose", "pose"), ("action", "action")):
        steps, values = logged(tmp_path / "x.rrd", entity, "Scalars:scalars")
        assert steps == list(range(12))
        np.testing.assert_array_equal(np.array(values, np.float32), recording[key])
    steps, blobs = logged(tmp_path / "x.rrd", "observation/camera", "EncodedImage:blob")
    assert steps == list(range(12))
    for blob, picture in zip(blobs, recording["camera"], strict=True):
        decoded = cv2.imdecode(np.frombuffer(bytes(blob[0]), np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(decoded[..., ::-1], picture)


def test_episodes_are_chosen_and_said(recording: ReplayBuffer, tmp_path: Path) -> None:
    arguments = ["data", "export", str(recording.path), str(tmp_path / "x.rrd"), "--to", "rerun"]
    assert main([*arguments, "--episodes", "1"]) == 0
    steps, texts = logged(tmp_path / "x.rrd", "episode", "TextDocument:text")
    assert steps == [0]
    assert "# Episode 1" in texts[0][0] and "anna" in texts[0][0] and "**success**: True" in texts[0][0]
    assert main([*arguments, "--episodes", "1"]) == 2  # it is there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.rrd", "x.zarr"]


def test_values_have_the_names_of_the_task() -> None:
    task = load_task("ur5e_two_realsense")
    for spec in task.observations.values():
        if not spec.is_image:
            assert len(value_names(spec)) == spec.dim
    assert value_names(TASK.observations["pose"]) == ["a", "b", "c"]


def test_without_rerun_it_says_how_to_get_it(
    recording: ReplayBuffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match="pip install rerun-sdk"):
        export_rrd(recording, [0], tmp_path / "x.rrd", lambda: None)


def test_another_name_is_refused(recording: ReplayBuffer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a name that ends in .rrd"):
        export_rrd(recording, [0], tmp_path / "x.mp4", lambda: None)
