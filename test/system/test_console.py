"""A person's whole session at the console: a real browser, the real nodes, the simulated robot in real time.

`SCREENSHOTS=FOLDER make test PYTEST_ARGS=test/system/test_console.py` keeps pictures of it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
    pytest.mark.timeout(240),
]

from std_msgs.msg import Bool  # noqa: E402

from dp_ros import bringup  # noqa: E402
from dp_ros.bridge.client import RosClient  # noqa: E402
from dp_ros.bridge.qos import reliable_qos  # noqa: E402
from dp_ros.data.episode_writer import EpisodeWriter, set_aside_path  # noqa: E402
from dp_ros.data.replay_buffer import ReplayBuffer  # noqa: E402
from dp_ros.msg import EpisodeStatus  # noqa: E402
from dp_ros.processes import running  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.data.recorded import random_episode  # noqa: E402

LIMIT_MS = 30_000
LONG_PRESS_MS = 1_000  # longer than browsers wait before they open a menu under a finger
#: What the page says that explains why something does not happen.
SHOWN = [
    "#toast",
    "#control",
    "#alarm",
    "#problems",
    "#teleop-state",
    "#robot-phase",
    "#policy-state",
    "#policy-message",
]
#: A gamepad that the browser is made to believe in: `press(button, 1)`, `pad.axes`.
FAKE_PAD = """
window.pad = { id: "pad", connected: true, mapping: "standard", axes: [0, 0, 0, 0],
               buttons: Array.from({ length: 17 }, () => ({ pressed: false, value: 0 })) };
navigator.getGamepads = () => [window.pad];
window.press = (i, value) => { window.pad.buttons[i] = { pressed: value > 0.5, value }; };
"""


@contextmanager
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield driver, browser
        browser.close()


def until(condition: Callable[[], Any], what: str, page: Any, limit_s: float = 30.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            shown = {where: page.locator(where).first.inner_text() for where in SHOWN}
            raise AssertionError(f"waited in vain for {what}; the page shows {shown}")
        page.wait_for_timeout(50)


def address_of(nodes: Any) -> str:
    """Where the console says that it is."""
    end_s = time.monotonic() + 30
    while True:
        found = re.search(r"open (http://\S+)", "\n".join(nodes.output("console")))
        if found:
            return found[1]
        nodes.check()
        assert time.monotonic() < end_s
        time.sleep(0.05)


class Person:
    """Somebody in front of the page."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.errors = page, list[str]()
        page.set_default_timeout(LIMIT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.add_init_script(FAKE_PAD)
        page.goto(address)
        self.sees("#link", "operator")

    def sees(self, what: str, text: str, limit_s: float = 30.0) -> None:
        node = self.page.locator(what).first
        until(lambda: text in node.inner_text(), f"{text!r} in {what}", self.page, limit_s)

    def steps(self) -> int:
        return int(self.page.inner_text("#steps"))

    def take_control(self) -> None:
        self.page.click("#control")
        self.sees("#control", "Release")

    def start_recording(self) -> None:
        said = self.page.locator("#toast")

        def begun() -> bool:
            """Pressed again while the console has not discovered the recorder, or the recorder not its streams."""
            self.page.keyboard.press("c")
            until(
                lambda: re.search(
                    "^recording|already recording|nobody offers|received on", said.inner_text()
                ),
                "an answer",
                self.page,
            )
            return "recording" in said.inner_text()

        until(begun, "the recorder", self.page)
        self.sees("#recorder-phase", "recording")

    def canvas(self) -> dict[str, float]:
        """Where the picture is, in view."""
        self.page.evaluate("scrollTo(0, 0)")
        box: dict[str, float] = self.page.locator("canvas.point").bounding_box()
        return box

    def drag(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        moves: int = 25,
        reached: Callable[[], Any] = lambda: True,
    ) -> None:
        """Press on the picture and move, places as shares of it; let go at the end, once that is reached."""
        box = self.canvas()
        mouse = self.page.mouse
        for k in range(moves + 1):
            at = [a + (b - a) * k / moves for a, b in zip(start, end, strict=True)]
            mouse.move(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
            if k == 0:
                mouse.down()
            self.page.wait_for_timeout(50)
        until(reached, "the robot to follow the mouse", self.page)
        mouse.up()

    def touch(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        reached: Callable[[], bool],
        moves: int = 5,
    ) -> None:
        """The same with a finger on a telephone: it rests long enough for a menu, and stays until it is reached."""
        box, fingers = self.canvas(), self.page.context.new_cdp_session(self.page)
        for k in range(moves + 1):
            x, y = (a + (b - a) * k / moves for a, b in zip(start, end, strict=True))
            at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
            kind = "touchMove" if k else "touchStart"
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
            self.page.wait_for_timeout(50 if k else LONG_PRESS_MS)
        until(reached, "the robot to follow the finger", self.page)
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def replay(self, until_it_says: str) -> None:
        """Replay the episode that is open; again where a busy machine kept the page from saying that it is there."""
        says = self.page.locator("#replaying")

        def went_on() -> bool:
            self.page.click("#replay")
            self.page.click("#confirm-yes")
            self.sees("#toast", "is replayed")
            until(
                lambda: re.search(f"{until_it_says}|is silent", says.inner_text()), until_it_says, self.page
            )
            return "is silent" not in says.inner_text()

        until(went_on, "the replay", self.page, 120.0)

    def picture(self, name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.evaluate("scrollTo(0, 0)")
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


class World:
    """What the simulated robot says of itself."""

    def __init__(self, client: RosClient) -> None:
        self._client, self._status = client, None
        client.node.create_subscription(EpisodeStatus, "/pusht/status", self._receive, reliable_qos(1))

    def _receive(self, status: Any) -> None:
        self._status = status

    def now(self) -> np.ndarray:
        """Agent x and y, block x and y, block angle; said after this was asked."""
        for _ in range(2):  # the first had waited already
            self._status = None
            self._client.wait(lambda: self._status, "/pusht/status")
        return np.array(self._status.state)  # type: ignore[attr-defined]

    def rests(self, page: Any) -> np.ndarray:
        """Where the agent is once it stands still."""

        def still() -> bool:
            before = self.now()
            page.wait_for_timeout(150)
            return bool(np.abs(self.now()[:2] - before[:2]).max() < 0.5)

        until(still, "the agent to stand still", page)
        return self.now()[:2]


def test_a_persons_whole_session(ros_domain: int, tmp_path: Path) -> None:
    out = tmp_path / "x.zarr"
    spec = bringup.console(out=str(out), port=0, operator_name="anna", instruction="push the T")
    with running(spec) as nodes, chromium() as (driver, browser), RosClient("world") as client:
        world = World(client)
        address = address_of(nodes)
        person = Person(browser.new_page(viewport={"width": 1280, "height": 1000}), address)
        page = person.page
        person.sees("figcaption", "Hz")
        person.sees("#policy-state", "idle")

        # watching is everybody's, moving is not
        assert page.locator('[data-do="record.start"]').is_disabled()
        person.drag((0.3, 0.3), (0.4, 0.3), moves=3)
        person.sees("#toast", "take control first")
        person.take_control()

        # an episode with the mouse: the T is pushed
        person.sees("#robot-phase", "ready")
        start = world.now()
        person.start_recording()

        def pushed() -> bool:
            return bool(np.linalg.norm(world.now()[2:4] - start[2:4]) > 20.0)

        person.drag((0.46, 0.24), (0.85, 0.6), reached=pushed)  # through the T
        person.picture("driving")
        until(lambda: person.steps() > 15, "steps", page)
        page.keyboard.press("m")
        person.sees("#recorder-message", "marked as a success")
        page.fill("#instruction", "push the T home")
        page.keyboard.press("Enter")
        person.sees("#toast", "saved with the next episode")
        page.keyboard.press("s")
        person.sees("#recorder-message", "episode 0 saved")

        # the second with the keyboard, discarded; a third, saved and deleted
        page.keyboard.press("r")
        person.sees("#robot-phase", "ready")
        person.start_recording()
        page.keyboard.down("Space")
        assert "held" in page.get_attribute("#deadman", "class")
        page.keyboard.down("ArrowRight")
        person.sees("#teleop-state", "taken over")
        until(lambda: person.steps() > 5, "steps", page)
        page.keyboard.up("ArrowRight")
        page.keyboard.up("Space")
        assert "held" not in page.get_attribute("#deadman", "class")
        page.keyboard.press("x")
        person.sees("#recorder-message", "steps discarded")
        person.start_recording()
        person.drag((0.5, 0.5), (0.2, 0.5), moves=10)
        page.keyboard.press("s")
        person.sees("#recorder-message", "episode 1 saved")
        page.keyboard.press("Backspace")
        person.sees("#toast", "Press once more")
        page.keyboard.press("Backspace")
        person.sees("#recorder-message", "episode 1 deleted")

        # a look at the one that was kept
        until(lambda: page.locator("#list li").count() == 1, "one episode in the list", page)
        person.sees("#list li", "Episode 0 ✓")
        until(
            lambda: page.evaluate("document.querySelector('#list img').naturalWidth") > 0, "thumbnail", page
        )
        page.click("#list button")
        person.sees("#playing-info", "push the T home")
        page.click("#play")
        until(lambda: int(page.inner_text("#at").split()[0]) >= 8, "step 8", page)
        page.click("#play")
        page.fill("#scrub", "3")
        until(lambda: page.locator("#frame").get_attribute("data-row") == "3", "the picture of step 3", page)
        person.picture("review")

        # and it is replayed on the robot
        page.click("#replay")
        person.sees("#confirm-says", "The robot will go to agent_x")
        page.click("#confirm-no")
        person.replay("robot: replayed")
        last = ReplayBuffer.open(out).episode(0)["action"][-1]
        assert np.linalg.norm(world.rests(page) - last) < 5.0

        # a second time, and Escape stops it on its way; the next stop is somebody else's
        person.replay("goes to its first command")
        page.keyboard.press("Escape")
        person.sees("#replaying", "ended: the emergency stop was pressed")
        person.sees("#alarm", "Emergency stop is pressed")
        world.rests(page)
        page.click("#replay")
        page.click("#confirm-yes")
        person.sees("#toast", "the emergency stop is pressed; clear it first")
        page.click('[data-do="policy.clear_emergency_stop"]')
        until(lambda: page.locator("#alarm").is_hidden(), "the end of the alarm", page)
        page.click("#close")

        # a gamepad drives while a shoulder button is held
        page.evaluate("pad.axes = [-1, 0, 0, 0]")
        before = world.rests(page)
        page.evaluate("press(4, 1)")
        until(lambda: before[0] - world.now()[0] > 40.0, "the gamepad to drive", page)
        page.evaluate("press(4, 0)")
        person.sees("#teleop-state", "taken over")  # the place where it stopped is commanded for a while
        world.rests(page)
        page.evaluate("pad.axes = [0, 0, 0, 0]")

        # somebody else watches from a telephone, and may stop
        phone = Person(
            browser.new_context(**driver.devices["Pixel 7"]).new_page(),
            address,
        )
        phone.sees("#control", "operator 1 has control")
        assert phone.page.locator("#control").is_disabled()
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 412

        # the policy runs; the stop ends it, and it stays stopped until it is cleared
        page.keyboard.press("r")
        person.sees("#robot-phase", "ready")
        page.keyboard.press("p")
        person.sees("#policy-state", "running")
        person.sees("#robot-phase", "running")
        for graph in ("inference and latency", "loop period, longest"):
            person.sees(f".graph:has-text('{graph}')", " ms")
        person.picture("policy")
        phone.picture("phone")
        phone.page.tap("#stop")
        person.sees("#alarm", "Emergency stop is pressed")
        person.sees("#policy-message", "EMERGENCY_STOP")
        person.drag((0.5, 0.5), (0.6, 0.5), moves=3)
        person.sees("#toast", "the emergency stop is pressed; clear it first")
        page.keyboard.press("p")
        person.sees("#toast", "refused")
        page.click('[data-do="policy.clear_emergency_stop"]')
        until(lambda: page.locator("#alarm").is_hidden(), "the end of the alarm", page)

        # a takeover with the mouse while the policy runs, then it goes on and is cancelled
        page.keyboard.press("p")
        person.sees("#policy-state", "running")
        person.drag((0.5, 0.5), (0.3, 0.5), moves=15)
        person.sees("#policy-state", "running")
        page.keyboard.press("Escape")
        person.sees("#alarm", "Emergency stop is pressed")
        person.sees("#policy-state", "idle")  # the message is that of the run before, for a moment
        person.sees("#policy-message", "EMERGENCY_STOP")
        page.click('[data-do="policy.clear_emergency_stop"]')
        until(lambda: page.locator("#alarm").is_hidden(), "the end of the alarm", page)

        # control is free again once its holder is gone, and a finger drives, too
        page.close()
        phone.sees("#control", "Take control")
        phone.page.tap("#control")
        phone.sees("#control", "Release")
        phone.page.tap("#reset")
        phone.sees("#robot-phase", "ready")
        there = np.array([0.15, 0.15]) * 512  # the T is elsewhere
        phone.touch((0.3, 0.4), (0.15, 0.15), lambda: np.linalg.norm(world.now()[:2] - there) < 30.0)
        world.rests(phone.page)

        # what is wrong with a stream is shown while nothing is recorded, too
        os.kill(nodes.pids["pusht"], signal.SIGSTOP)
        phone.sees("#problems", "image")
        os.kill(nodes.pids["pusht"], signal.SIGCONT)
        assert person.errors == [] and phone.errors == []

    buffer = ReplayBuffer.open(out)
    assert buffer.n_episodes == 1 and buffer.episode_success.tolist() == [1]
    assert buffer.episode_info[0]["operator"] == "anna"
    assert buffer.episode_info[0]["instruction"] == "push the T home"
    assert ReplayBuffer.open(set_aside_path(out)).n_episodes == 1
    episode = buffer.episode(0)
    action, position = episode["action"], episode["agent_pos"]
    assert np.linalg.norm(action[-1] - action[0]) > 100.0
    assert np.linalg.norm(np.diff(action, axis=0), axis=1).max() <= 300.0 * 0.1 * 1.5
    # The robot is still on its way when the last row is saved, along what was commanded.
    assert np.linalg.norm(position[-1] - action, axis=1).min() < 30.0
    assert np.linalg.norm(position[-1] - position[0]) > 80.0
    assert (episode["image"][0] != episode["image"][-1]).any()


def test_a_page_that_hangs_stops_the_robot_and_then_loses_control(ros_domain: int, tmp_path: Path) -> None:
    out, task = tmp_path / "x.zarr", load_task("pusht_image")
    with EpisodeWriter(out, task) as writer:
        for step in random_episode(task, 3, 0):
            writer.add(step)
        writer.save(0)
    spec = bringup.console(out=str(out), model="", port=0)
    with running(spec) as nodes, chromium() as (_, browser):
        address = address_of(nodes)
        person, watcher = Person(browser.new_page(), address), Person(browser.new_page(), address)
        person.sees("#list li", "Episode 0")  # from the start, before anything was done
        person.take_control()
        person.page.keyboard.down("Space")
        person.page.keyboard.down("ArrowRight")
        watcher.sees("#teleop-state", "commanding")
        hang = "setTimeout(() => { const end = Date.now() + 15000; while (Date.now() < end); })"
        person.page.evaluate(hang)
        watcher.sees("#teleop-state", "let go")
        watcher.sees("#control", "Take control")
        watcher.take_control()

        # a stop that somebody else sends counts here, too, although no policy node is there to say so
        with RosClient("button") as button:
            stop = button.node.create_publisher(Bool, "/policy/emergency_stop", reliable_qos())
            button.wait(stop.get_subscription_count, "the console")
            stop.publish(Bool(data=True))
            watcher.sees("#alarm", "Emergency stop is pressed")
