"""Fixtures for tests of processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .robot import Robot


@pytest.fixture
def robot(ros_domain: int) -> Iterator[Robot]:
    """A robot that publishes while it waits."""
    from .robot import Robot

    with Robot() as robot:
        yield robot
