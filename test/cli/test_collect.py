from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dp_ros.cli import collect
from dp_ros.cli.main import main
from dp_ros.data.replay_buffer import ReplayBuffer
from dp_ros.sim.pusht_episodes import Demonstration, DemonstrationStyle, generate_episode, seeds_to_record
from dp_ros.task import load_task


def test_new_seeds_follow_the_recorded_ones_and_none_is_taken_twice() -> None:
    def first_three(start: int | None, recorded: list[int]) -> list[int]:
        return list(itertools.islice(seeds_to_record(start, recorded), 3))

    assert first_three(None, []) == [0, 1, 2]
    assert first_three(None, [4, 2]) == [5, 6, 7]
    assert first_three(3, [4, 2]) == [3, 5, 6]
    assert first_three(None, [-1, -1]) == [0, 1, 2]


def test_fast_collection_records_the_generators_episodes_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.zarr"
    arguments = ["collect", "--fast", "--out", str(out), "--noise-px", "2"]
    assert main([*arguments, "--episodes", "2", "--seed", "1"]) == 0
    assert main([*arguments, "--episodes", "1"]) == 0
    buffer = ReplayBuffer.open(out)
    assert buffer.episode_seeds.tolist() == [1, 2, 3]
    for index, seed in enumerate([1, 2, 3]):
        expected = generate_episode(load_task("pusht_state"), seed, DemonstrationStyle(noise_px=2.0)).steps
        for key, rows in buffer.episode(index).items():
            np.testing.assert_array_equal(rows, np.stack([s[key] for s in expected]).astype(rows.dtype))
    assert str(buffer.n_steps) in capsys.readouterr().out


def test_several_workers_give_the_same_recording_as_one(tmp_path: Path) -> None:
    arguments = ["collect", "--fast", "--episodes", "3", "--seed", "1", "--out"]
    main([*arguments, str(tmp_path / "one.zarr")])
    main([*arguments, str(tmp_path / "two.zarr"), "--workers", "2"])
    one, two = ReplayBuffer.open(tmp_path / "one.zarr"), ReplayBuffer.open(tmp_path / "two.zarr")
    assert one.digest() == two.digest()
    assert one.episode_seeds.tolist() == two.episode_seeds.tolist()


@pytest.mark.parametrize(("keep", "seeds"), [(False, [0, 2, 4]), (True, [0, 1, 2])])
def test_failures_are_kept_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, seeds: list[int]
) -> None:
    rows = generate_episode(load_task("pusht_state"), 1, max_steps=2).steps

    def every_other_fails(task: object, seed: int, style: object = None, **options: object) -> Demonstration:
        return Demonstration(seed, seed % 2 == 0, 0.5, rows)

    monkeypatch.setattr(collect, "generate_episode", every_other_fails)
    out = str(tmp_path / "x.zarr")
    main(["collect", "--fast", "--episodes", "3", "--out", out, *(["--keep-failures"] if keep else [])])
    assert ReplayBuffer.open(out).episode_seeds.tolist() == seeds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2"], "--workers needs --fast"),
        (["--fast", "--noise-px", "-1"], "--noise-px -1: expected 0 to 50"),
        (["--fast", "--push-px-per-step", "20"], "0 < push <= travel"),
        (["--fast", "--task", "nothing"], "task nothing"),
    ],
)
def test_what_cannot_be_collected_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "x.zarr"
    assert main(["collect", "--episodes", "1", "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_ctrl_c_keeps_every_saved_episode_and_says_how_many(tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    command = [
        sys.executable,
        "-m",
        "dp_ros.cli.main",
        "collect",
        "--fast",
        "--episodes",
        "500",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    try:
        while not (out.exists() and ReplayBuffer.open(out).n_episodes):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    buffer = ReplayBuffer.open(out)
    assert buffer.n_episodes >= 1
    assert buffer.unfinished_steps == 0
    assert f"interrupted: {buffer.n_episodes} of 500 episodes recorded and kept" in said
