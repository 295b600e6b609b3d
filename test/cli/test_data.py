"""`dp-ros data` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.data.replay_buffer import ReplayBuffer
from test.data.recorded import small_task
from test.data.test_health import frozen, recording


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Seven episodes; the camera froze in number 3."""
    recording(tmp_path / "x.zarr", frozen(8, 10))
    return tmp_path / "x.zarr"


def test_what_is_wrong_is_found_left_out_and_gone(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "check.json"
    assert main(["data", "check", str(broken), "--json", str(report)]) == 1
    shown = capsys.readouterr().out
    assert "episode 3: error: camera shows the same picture" in shown
    assert "7 episodes: 6 ok, 0 with warnings, 1 with errors" in shown
    assert f"dp-ros data drop {broken} 3 --out NEW.zarr" in shown
    found = json.loads(report.read_text())
    assert [episode["verdict"] for episode in found["episodes"]].index("error") == 3
    assert main(["data", "drop", str(broken), "3", "--out", str(tmp_path / "y.zarr")]) == 0
    assert main(["data", "check", str(tmp_path / "y.zarr")]) == 0


def test_in_place_it_needs_a_yes(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = ReplayBuffer.open(broken).digest()
    assert main(["data", "drop", str(broken), "3"]) == 2
    assert "would hold 6 of its 7 episodes, without 3" in capsys.readouterr().err
    assert ReplayBuffer.open(broken).digest() == digest
    assert main(["data", "drop", str(broken), "3", "--yes"]) == 0
    assert ReplayBuffer.open(broken).n_episodes == 6
    assert ReplayBuffer.open(broken.with_name("x.zarr.before_1")).digest() == digest


def test_a_person_says_afterwards_how_an_episode_went(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = ["data", "mark", str(broken), "2"]
    assert main([*mark, "--success", "yes", "--operator", "anna", "--instruction", "push [red]"]) == 0
    assert "episode 2: success yes, instruction 'push [red]', operator 'anna'" in capsys.readouterr().out
    assert main([*mark, "--success", "no"]) == 2
    assert "episode 2 is said to have success; that would be lost" in capsys.readouterr().err
    assert main([*mark, "--success", "no", "--operator", "", "--yes"]) == 0
    buffer = ReplayBuffer.open(broken)
    assert buffer.episode_success.tolist() == [-1, -1, 0, -1, -1, -1, -1]
    assert buffer.episode_info[2] == {"instruction": "push [red]"}


def test_split_and_merge_give_the_recording_back(broken: Path, tmp_path: Path) -> None:
    a, b, both = tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path / "both.zarr"
    assert main(["data", "split", str(broken), "0:5", "--out", str(a), "--rest", str(b)]) == 0
    assert (ReplayBuffer.open(a).n_episodes, ReplayBuffer.open(b).n_episodes) == (5, 2)
    assert main(["data", "merge", str(a), str(b), "--out", str(both)]) == 0
    assert ReplayBuffer.open(both).digest() == ReplayBuffer.open(broken).digest()


def test_pictures_and_tables(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet, plot = tmp_path / "sheet.png", tmp_path / "plot.png"
    assert main(["data", "thumbnails", str(broken), "--out", str(sheet), "--episodes", "0:3"]) == 0
    assert main(["data", "plot", str(broken), "2", "--out", str(plot)]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert plot.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["data", "info", str(broken)]) == 0
    shown = capsys.readouterr().out
    for text in ("small", "10 Hz", "data/camera", "[96, 101, 3] uint8", "210; an episode has 30 to 30"):
        assert text in shown


def test_an_unfinished_episode_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import zarr

    recording(tmp_path / "x.zarr", lambda steps: steps)
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="r+", zarr_format=2)
    for _, array in group["data"].arrays():  # type: ignore[union-attr]
        array.resize((array.shape[0] + 4, *array.shape[1:]))
    assert main(["data", "info", str(tmp_path / "x.zarr")]) == 0
    assert "4 rows: being recorded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{tmp}/none.zarr"], "none.zarr: is not there"),
        (["plot", "{x}", "9", "--out", "{tmp}/p.png"], "got episode 9, it has 0 to 6"),
        (
            ["thumbnails", "{x}", "--camera", "left", "--out", "{tmp}/p.png"],
            "has no camera left; it has camera",
        ),
        (["thumbnails", "{x}", "--out", "{tmp}/p.xyz", "--episodes", "0"], "cannot be written as a picture"),
        (["split", "{x}", "0:7", "--out", "{tmp}/a.zarr", "--rest", "{tmp}/b.zarr"], "nothing is left for"),
        (["drop", "{x}", ":", "--yes"], "nothing would be left"),
        (["drop", "{x}", "8", "--yes"], "episodes: got '8', the recording has 0 to 6"),
        (["merge", "{x}", "--out", "{x}"], "is there already"),
        (["mark", "{x}", "3"], "nothing to say: give --success"),
        (["mark", "{x}", "7", "--success", "yes"], "got episode 7, it has 0 to 6"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], message: str, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part.format(tmp=tmp_path, x=broken) for part in arguments]
    assert main(["data", *given]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error


def test_a_recording_without_pictures_has_no_thumbnails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    observations = small_task().model_dump(mode="json")["observations"]
    task = small_task(observations={"pose": observations["pose"]})
    with EpisodeWriter(tmp_path / "x.zarr", task) as writer:
        writer.add({"pose": np.zeros(3), "action": np.zeros(2), "timestamp": 0.0})
        writer.save()
    assert main(["data", "thumbnails", str(tmp_path / "x.zarr"), "--out", str(tmp_path / "p.png")]) == 2
    assert "it has none" in capsys.readouterr().err
