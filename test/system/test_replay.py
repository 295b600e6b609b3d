"""`dp-ros data replay` on the simulated robot in real time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from dp_ros.cli.main import main  # noqa: E402

from .processes_left import processes_left  # noqa: E402

pytestmark = pytest.mark.timeout(120)


def test_an_episode_pushes_the_t_as_it_did(
    ros_domain: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "x.zarr"
    collect = ["collect", "--fast", "--episodes", "1", "--seed", "5", "--noise-px", "0"]
    assert main([*collect, "--out", str(data)]) == 0
    for _ in range(3):
        ended = main(["data", "replay", str(data), "0", "--sim"])
        said = capfd.readouterr()
        if "no fresh sample" not in said.err:
            break  # else a busy machine kept the robot silent, and it was rightly stopped
    assert ended == 0, said.err
    found = re.search(r"episode 0 replayed, \d+ commands; score (\d\.\d+)", said.out)
    # Without feedback, and in real time, the last push may end a little beside where it did.
    assert found is not None and float(found[1]) > 0.5
    assert processes_left(ros_domain) == []


def test_nothing_moves_without_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "x.zarr"
    assert main(["collect", "--fast", "--episodes", "1", "--out", str(data)]) == 0
    for arguments, words in (
        (["0"], "the robot would go to agent_x"),
        (["1", "--sim"], "got episode 1, it has 0 to 0"),
        (["0", "--sim", "--speed", "9"], "--speed: expected above 0, at most 2"),
    ):
        assert main(["data", "replay", str(data), *arguments]) == 2
        assert words in capsys.readouterr().err
