"""One number goes into a task file; every other character stays."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dp_ros.calibration.task_file import read_text, replace_text, with_number
from dp_ros.errors import UserError
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec, load_task

STATE = share_dir() / "config" / "tasks" / "pusht_state.yaml"


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    assert before.count("\n") == after.count("\n")
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    return [(old, new) for old, new in lines if old != new]


def test_a_latency_that_is_there_is_replaced_on_its_line_with_its_comment() -> None:
    before = STATE.read_text()
    after = with_number(before, ("observations", "keypoint", "latency_s"), 0.127)
    assert changed_lines(before, after) == [
        (
            "    latency_s: 0.0       # header stamp minus this is the time of capture",
            "    latency_s: 0.127       # header stamp minus this is the time of capture",
        )
    ]


def test_a_latency_that_is_not_there_gets_a_line_of_its_own(tmp_path: Path) -> None:
    before = STATE.read_text()
    after = with_number(before, ("action", "latency_s"), 0.08)
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert added == ["  latency_s: 0.08"]
    path = tmp_path / "task.yaml"
    path.write_text(after)
    task, original = load_task(path), load_task(STATE)
    assert task.action.latency_s == 0.08
    assert task.observations == original.observations


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  b: {c: 1, d: [2]}   # x\n", "a:\n  b: {c: 1, d: [2], latency_s: 0.1}   # x\n"),
        ("a:\n  b: {c: 1, latency_s: 0.5, d: 2}\n", "a:\n  b: {c: 1, latency_s: 0.1, d: 2}\n"),
        ("a:\n  b:\n    c:\n      - 1\n", "a:\n  b:\n    latency_s: 0.1\n    c:\n      - 1\n"),
        ("a:\n  b:\n    c: 1", "a:\n  b:\n    c: 1\n    latency_s: 0.1\n"),
        ("a:\r\n  b:\r\n    c: 1  # x\r\n", "a:\r\n  b:\r\n    c: 1  # x\r\n    latency_s: 0.1\r\n"),
        ("# é\na:\n  'b':\n    \"latency_s\": 1e-3\n", "# é\na:\n  'b':\n    \"latency_s\": 0.1\n"),
        ("a:\n  b:\n    latency_s:\n", "a:\n  b:\n    latency_s: 0.1\n"),
    ],
)
def test_layouts(before: str, after: str) -> None:
    assert with_number(before, ("a", "b", "latency_s"), 0.1) == after


def test_an_anchor_that_would_change_something_else_is_refused() -> None:
    shared = "base: &base {c: 1, latency_s: 0.0}\na:\n  b: *base\n"
    with pytest.raises(UserError, match="by hand"):
        with_number(shared, ("a", "b", "latency_s"), 0.1)


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"no observations.wrist to put"):
        with_number(STATE.read_text(), ("observations", "wrist", "latency_s"), 0.1)


def test_the_changed_text_is_a_task_that_differs_in_the_one_value() -> None:
    import yaml

    text = with_number(STATE.read_text(), ("observations", "agent_pos", "latency_s"), 0.012)
    changed, original = TaskSpec.from_dict(yaml.safe_load(text)), load_task(STATE)
    assert changed.observations["agent_pos"].latency_s == 0.012
    expected = original.model_dump()
    expected["observations"]["agent_pos"]["latency_s"] = 0.012
    assert changed.model_dump() == expected


def test_replacing_keeps_mode_and_link_and_leaves_nothing_behind(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_bytes(b"a: 1\r\n")
    real.chmod(0o640)
    link.symlink_to(real)
    replace_text(link, read_text(link) + "b: 2\r\n")
    assert real.read_bytes() == b"a: 1\r\nb: 2\r\n"
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "real.yaml"]


def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("a: 1\n")

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"task.yaml: cannot be written: No space left"):
        replace_text(path, "a: 2\n")
    assert path.read_text() == "a: 1\n"
    assert os.listdir(tmp_path) == ["task.yaml"]
