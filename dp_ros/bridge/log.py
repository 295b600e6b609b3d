"""What the rooms below the nodes log, in the node's own log: they use Python's `logging` and know no ROS."""

from __future__ import annotations

import logging
from typing import Any


class RosLogHandler(logging.Handler):
    """Passes records on to an rclpy logger, from `attach` to `detach`.

    Args:
        logger: of the node.
        name: of the Python loggers whose records are passed on, with those below it.
    """

    def __init__(self, logger: Any, name: str = "dp_ros") -> None:
        super().__init__(logging.INFO)
        self._ros, self._python = logger, logging.getLogger(name)

    def attach(self) -> None:
        """Begin."""
        self._python.addHandler(self)
        self._python.setLevel(logging.INFO)

    def detach(self) -> None:
        """End."""
        self._python.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, with its level."""
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._ros.error(message)
        elif record.levelno >= logging.WARNING:
            self._ros.warning(message)
        else:
            self._ros.info(message)
