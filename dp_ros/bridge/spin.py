"""Running one node as a process: start, spin, and end cleanly on SIGINT, SIGTERM and bad parameters."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from dp_ros.errors import UserError


def run_node(make_node: Callable[[], Any], args: list[str] | None = None) -> int:
    """Make a node, spin it until it is told to stop, and destroy it.

    Args:
        make_node: called after rclpy is initialised.
        args: command line, `sys.argv` if None.

    Returns:
        Exit status: 0 after SIGINT or SIGTERM, 2 if the node refused its parameters.
    """
    rclpy.init(args=args)
    node = None
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # At a terminal `ros2 launch` passes Ctrl-C on, so that it arrives twice.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
