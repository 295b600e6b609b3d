from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dp_ros.benchmark import machine


def test_the_machine_is_described_in_json() -> None:
    found = json.loads(json.dumps(machine.describe()))
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert "numpy" in found["versions"]
    assert len(machine.load_average()) == 3


def test_busy_cores_are_at_most_all_of_them() -> None:
    busy = machine.busy_cores(0.05)
    assert busy is None or 0.0 <= busy <= (os.cpu_count() or 1)


def test_what_a_hypervisor_took_is_the_eighth_field_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = f"cpu  1 2 3 4 5 6 7 {3 * os.sysconf('SC_CLK_TCK')} 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    monkeypatch.setattr(Path, "read_text", lambda _: stat)
    assert machine.stolen_s() == 3.0


def test_nothing_was_taken_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: "cpu  1 2 3 4\n")
    assert machine.stolen_s() == 0.0
    assert machine.busy_cores(0.0) is None
