from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")

from dp_ros.bridge.log import RosLogHandler


class Log:
    """An rclpy logger's methods."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def info(self, text: str) -> None:
        self.said.append(("info", text))

    def warning(self, text: str) -> None:
        self.said.append(("warning", text))

    def error(self, text: str) -> None:
        self.said.append(("error", text))


@pytest.fixture
def log() -> Iterator[Log]:
    said = Log()
    handler = RosLogHandler(said, "dp_ros_test")
    handler.attach()
    yield said
    handler.detach()


def test_records_keep_their_level_and_their_arguments(log: Log) -> None:
    python = logging.getLogger("dp_ros_test.inference")
    python.debug("too much")
    python.info("engine %s", "onnx")
    python.warning("%d rows", 3)
    python.error("no")
    python.critical("worse")
    assert log.said == [
        ("info", "engine onnx"),
        ("warning", "3 rows"),
        ("error", "no"),
        ("error", "worse"),
    ]


def test_other_packages_are_not_passed_on(log: Log) -> None:
    logging.getLogger("matplotlib").error("a font")
    assert log.said == []


def test_after_detach_nothing_is_passed_on() -> None:
    said = Log()
    handler = RosLogHandler(said, "dp_ros_test")
    handler.attach()
    handler.detach()
    logging.getLogger("dp_ros_test").warning("late")
    assert said.said == []
