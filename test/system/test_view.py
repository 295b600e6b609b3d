"""The simulated robot and the shipped policy with `--rerun FILE.rrd`: what was seen and done is in the file."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rerun")

import rclpy  # noqa: E402

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.nodes.view_node import ViewNode  # noqa: E402

from .processes_left import processes_left  # noqa: E402
from .test_up import read_until, start_up  # noqa: E402

pytestmark = pytest.mark.timeout(120)


def logged(path: Path) -> dict[str, tuple[int, bool]]:
    """Entities: how many rows they have, and whether these have capture times."""
    chunks: Any = pytest.importorskip("rerun.chunk")
    found: dict[str, tuple[int, bool]] = {}
    for chunk in chunks.RrdReader(path).stream():
        if not chunk.is_static:
            rows, timed = found.get(str(chunk.entity_path), (0, True))
            names = chunk.to_record_batch().schema.names
            found[str(chunk.entity_path)] = (rows + chunk.num_rows, timed and "stamp" in names)
    return found


def test_a_run_is_kept_in_a_file_for_the_viewer(ros_domain: int, tmp_path: Path) -> None:
    file = tmp_path / "run.rrd"
    up = start_up(
        "pusht_demo", "task:=pusht_image", "model:=pusht_image", "lockstep:=false", "--rerun", str(file)
    )
    read_until(up, "goes to rerun", "model pusht_image")
    goal = ["dp-ros", "run", "--time-limit", "4"]
    subprocess.run(goal, timeout=60, capture_output=True, check=False)  # that the time is up is no success
    up.send_signal(signal.SIGINT)
    output, _ = up.communicate(timeout=30)
    assert "Traceback" not in output, output
    assert processes_left(ros_domain) == []
    found = logged(file)
    assert found["/observation/image"] > (10, True) and found["/observation/agent_pos"][0] > 20
    assert found["/action"] >= (10, True), found
    assert found["/policy/state"][0] >= 2 and found["/policy/queue_s"][0] > 10


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("somewhere", "expected spawn, HOST:PORT"),
        ("/nowhere/x.rrd", "its folder is not there"),
        ("spawn", "there is no screen here"),
    ],
)
def test_a_place_that_is_none_is_refused(
    ros_domain: int, where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    rclpy.init(args=["--ros-args", "-p", f"rerun:={where}"])
    try:
        with pytest.raises(UserError, match=message):
            ViewNode()
    finally:
        rclpy.shutdown()


def test_a_file_that_is_there_is_kept(ros_domain: int, tmp_path: Path) -> None:
    (tmp_path / "x.rrd").write_text(str(np.pi))
    rclpy.init(args=["--ros-args", "-p", f"rerun:={tmp_path / 'x.rrd'}"])
    try:
        with pytest.raises(UserError, match="is there already"):
            ViewNode()
    finally:
        rclpy.shutdown()
    assert (tmp_path / "x.rrd").read_text() == str(np.pi)
