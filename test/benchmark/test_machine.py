from __future__ import annotations

import json
import os

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
