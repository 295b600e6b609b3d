"""The page in a real browser before a stand-in for the robot: what only other tasks than PushT have.

An arm with a gripper, two cameras, setpoints; and a gamepad that the browser is made to believe in.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")

from dp_ros.console.access import Access  # noqa: E402
from dp_ros.console.gamepad import default_mapping, parse_mapping  # noqa: E402
from dp_ros.console.server import ConsoleServer  # noqa: E402
from dp_ros.data.pictures import jpeg  # noqa: E402
from test.console.test_server import StandIn  # noqa: E402
from test.data.recorded import small_task  # noqa: E402

DRIVES = ["x", "y", "z", "rx", "ry", "rz", "gripper"]
FAKE_PAD = """
window.pad = { id: "pad", connected: true, mapping: "standard", axes: [0, 0, 0, 0],
               buttons: Array.from({ length: 17 }, () => ({ pressed: false, value: 0 })) };
navigator.getGamepads = () => [window.pad];
window.press = (i, value) => { window.pad.buttons[i] = { pressed: value > 0.5, value }; };
"""


class Arm(StandIn):
    """What an arm shows."""

    def __init__(self) -> None:
        super().__init__()
        self.jitter_ms: float | None = 0.4
        self.problems: list[str] = []
        self.replayed: dict[str, Any] | None = None
        self.recorder = True

    def facts(self) -> dict[str, Any]:
        return {
            "task": "arm",
            "rate_hz": 10.0,
            "cameras": ["front", "wrist"],
            "streams": ["joints"],
            "names": DRIVES,
            "drives": DRIVES,
            "plane": [0.0, 0.0, 1.0, 1.0],
            "plane_camera": 1,
            "gamepad": parse_mapping(default_mapping(DRIVES, {"gripper"}, y_down=False), DRIVES, {"gripper"}),
            "jitter": "setpoint jitter, p99",
        }

    def state(self) -> dict[str, Any]:
        policy = {
            **{"state": "running", "reason": "", "message": "", "model_id": "m", "mode": "replace"},
            **{"gate": "open", "takeover": False, "dry_run": False},
            **{"queue_s": 1.0, "inference_ms": 3.0, "latency_ms": 5.0, "jitter_ms": self.jitter_ms},
        }
        recorder = {
            **{"phase": "idle", "episodes": 1, "steps": 0, "message": "", "path": "x.zarr", "success": -1},
            "problems": self.problems,
        }
        return {
            **{"streams": {"joints": [0.0]}, "live": {"front": True, "wrist": True}},
            **{"commanded": None, "problem": "", "stopped": False, "said": "", "robot": None, "chunk": None},
            **{"policy": policy, "recorder": recorder if self.recorder else None, "replay": self.replayed},
            "labels": {"operator_name": "", "instruction": ""} if self.recorder else None,
        }

    def picture(self, camera: int, after_ns: int) -> tuple[int, bytes] | None:
        return None if after_ns else (1, _jpeg(camera))


class OneEpisode:
    """A recording of two cameras."""

    def __init__(self) -> None:
        self.success: bool | None = None

    def mark(self, index: int, success: bool) -> str:
        self.success = success
        return "marked"

    def overview(self) -> dict[str, Any]:
        listed = {"index": 0, "steps": 5, "seconds": 0.5, "success": self.success, "seed": -1, "info": {}}
        return {"episodes": [listed], "cameras": ["front", "wrist"]}

    def values(self, index: int) -> dict[str, Any]:
        action = [[0.1 * k] * len(DRIVES) for k in range(5)]
        return {"rows": list(range(5)), "time": [0.1 * k for k in range(5)], "streams": {"action": action}}

    def commands(self, index: int) -> tuple[Any, Any]:
        return small_task(), np.zeros((5, 2))

    def frame(self, index: int, camera: str, row: int, *, small: bool) -> bytes:
        return _jpeg(["front", "wrist"].index(camera))


def _jpeg(camera: int) -> bytes:
    return jpeg(np.full((24, 32, 3), 40 + 150 * camera, np.uint8), "rgb8")


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(arm: Arm, browser: Any) -> Iterator[Any]:
    server = ConsoleServer(arm, OneEpisode(), Access("127.0.0.1"), 0)  # type: ignore[arg-type]
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.add_init_script(FAKE_PAD)
    opened.goto(f"http://127.0.0.1:{server.port}/")
    opened.click("#control")
    until(opened, lambda: "Release" in opened.inner_text("#control"), "control")
    yield opened
    if folder := os.environ.get("SCREENSHOTS"):
        opened.screenshot(path=str(Path(folder) / "arm.png"), full_page=True)
    opened.close()
    server.close()
    assert errors == []


def until(page: Any, condition: Callable[[], Any], what: str) -> None:
    end_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end_s, f"waited in vain for {what}"
        page.wait_for_timeout(20)


def driven(page: Any, arm: Arm, want: list[float]) -> None:
    def last() -> list[float]:
        drives = [what[1] for what in arm.told if what[0] == "drive"]
        return drives[-1] if drives else []

    until(page, lambda: last() == pytest.approx(want), f"{want} instead of {last()}")


def test_a_gamepad_drives_every_command_while_a_shoulder_button_is_held(page: Any, arm: Arm) -> None:
    says = page.inner_text("#pad-keys")
    assert (
        "x left stick ←→, y left stick ↑↓" in says and "rz D-pad ↓ ↑" in says and "gripper A closes" in says
    )
    page.evaluate("pad.axes = [1, -1, 0, 0.55]; press(15, 1); press(0, 1)")
    page.wait_for_timeout(100)
    assert not [what for what in arm.told if what[0] == "drive"]  # nobody holds a shoulder button
    page.evaluate("press(0, 0); press(5, 1)")
    driven(page, arm, [1, 1, 0, -0.5, 1, 0, 0])
    page.evaluate("pad.axes = [0, 0, 0, 0]; press(15, 0); press(12, 1); press(0, 1)")
    driven(page, arm, [0, 0, 0, 0, 0, 1, 1])
    page.evaluate("press(12, 0); press(0, 0)")
    driven(page, arm, [0, 0, 0, 0, 0, 0, 1])  # a gripper keeps what it was told
    page.evaluate("press(0, 1)")
    driven(page, arm, [0, 0, 0, 0, 0, 0, -1])
    assert "held" in page.get_attribute("#deadman", "class")
    page.evaluate("press(5, 0); press(0, 0)")
    until(page, lambda: arm.told[-2:] == ["let go", ("deadman", False)], "let go")
    count = len(arm.told)
    page.evaluate("press(4, 1)")  # held again: a gripper that is closed is no movement
    until(page, lambda: len(arm.told) > count, "the deadman")
    assert all(what == ("deadman", True) for what in arm.told[count:])


def test_the_main_picture_and_the_one_to_scrub_are_chosen(page: Any, arm: Arm) -> None:
    assert page.locator("figure canvas.point").get_attribute("aria-label") == "camera wrist"
    wide = "[...document.querySelectorAll('figure')].map((figure) => figure.getBoundingClientRect().width)"
    until(page, lambda: np.ptp(page.evaluate(wide)) < 1.0, "pictures side by side")
    page.select_option("#main-camera", "wrist")
    front, wrist = page.evaluate(wide)
    assert wrist > 2 * front
    page.click("#list button")
    shown = page.locator("#frame")
    until(page, lambda: shown.get_attribute("data-camera") == "front", "the first camera")
    page.select_option("#shown-camera", "wrist")
    until(page, lambda: shown.get_attribute("data-camera") == "wrist", "the other camera")
    grey = "document.querySelector('#frame').getContext('2d').getImageData(5, 5, 1, 1).data[0]"
    assert abs(page.evaluate(grey) - 190) < 5
    assert "/wrist/" in page.locator("#list img").get_attribute("src")


def test_problems_of_streams_and_the_jitter_of_setpoints_are_shown(page: Any, arm: Arm) -> None:
    graph = page.locator(".graph", has_text="setpoint jitter, p99")
    until(page, lambda: "0.40 ms" in graph.inner_text(), "the jitter")
    assert page.locator("#problems").is_hidden()
    arm.problems = ["wrist: frozen for 2.1 s"]
    until(page, lambda: page.inner_text("#problems") == "wrist: frozen for 2.1 s", "the problem")
    arm.problems = []
    until(page, lambda: page.locator("#problems").is_hidden(), "no problem")


def test_episodes_are_marked_in_the_list_where_nobody_records(page: Any, arm: Arm) -> None:
    page.click("#list button")
    good = page.locator('[data-mark="true"]')
    assert good.is_disabled()
    arm.recorder = False
    until(page, good.is_enabled, "the button")
    good.click()
    until(page, lambda: "Episode 0 ✓" in page.inner_text("#list"), "the mark")


def test_what_is_typed_for_the_next_episode_is_no_shortcut(page: Any, arm: Arm) -> None:
    page.fill("#operator", "")
    page.locator("#operator").press_sequentially("cx p")
    page.keyboard.press("Enter")
    until(page, lambda: "record.label" in arm.told, "the label")
    assert not {"record.start", "record.discard", "policy.run"} & {w for w in arm.told if isinstance(w, str)}


def test_a_replay_has_to_be_confirmed_and_goes_on_only_while_the_page_says_so(page: Any, arm: Arm) -> None:
    page.click("#list button")
    page.click("#replay")
    assert "The robot will go to x 0.000, y 0.000" in page.inner_text("#confirm-says")
    page.click("#confirm-no")
    assert page.locator("#confirm").is_hidden()
    assert not [what for what in arm.told if what[0] == "replay"]
    page.click("#replay")
    page.keyboard.press("Escape")
    until(page, lambda: "policy.emergency_stop" in arm.told, "the stop")
    assert page.locator("#confirm").is_hidden()
    page.click("#replay")
    page.select_option("#replay-speed", "0.5")
    going = {
        "episode": 0,
        "phase": "playing",
        "active": True,
        "progress_s": 0.2,
        "seconds": 0.5,
        "problem": "",
    }
    arm.replayed = going
    page.click("#confirm-yes")
    until(page, lambda: ("replay", 0, "small", (5, 2), 0.5) in arm.told, "the replay")
    until(page, lambda: arm.told.count("watched") > 5, "the page to say that somebody watches")
    assert "Episode 0 on the robot: 0.2 of 0.5 s" in page.inner_text("#replaying")
    assert page.inner_text("#teleop-state") == "replaying"
    page.click('[data-do="robot.stop_replay"]')
    until(page, lambda: "robot.stop_replay" in arm.told, "the end")
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    until(page, lambda: arm.told[-1] == "let go", "a page in the background to let go")
    page.wait_for_timeout(150)
    assert arm.told[-1] == "let go"
    arm.replayed = {**going, "active": False, "phase": "failed", "problem": "it was stopped"}
    until(page, lambda: "ended: it was stopped" in page.inner_text("#replaying"), "why it ended")
