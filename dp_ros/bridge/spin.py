"""Running one node as a process: start, spin, and end cleanly on SIGINT, SIGTERM and bad parameters.

Easy to get wrong: rclpy's own signal handlers end the context first, and then nothing can be sent any more, not even
a stop; so signals are taken here, and the node's last words are sent before the context goes down.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from dp_ros.bridge.clock import ignore_negative_clock
from dp_ros.errors import UserError

#: How soon a signal is noticed: the executor waits in C, where Python handles none.
SIGNAL_S = 0.1
#: How long last words are given to be sent and results to be fetched.
LAST_WORDS_S = 0.2


def run_node(
    make_node: Callable[[], Any],
    args: list[str] | None = None,
    *,
    before_end: Callable[[Any], None] | None = None,
) -> int:
    """Make a node, spin it until it is told to stop, and destroy it.

    Args:
        make_node: called after rclpy is initialised.
        args: command line, `sys.argv` if None.
        before_end: called with the node after a signal, while it can still send; what it leaves to be done is done
            for 0.2 s.

    Returns:
        Exit status: 0 after SIGINT or SIGTERM, 2 if the node refused its parameters.
    """
    told = Event()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        # At a terminal `ros2 launch` passes Ctrl-C on, so that it arrives twice.
        signal.signal(number, lambda *_: told.set())
    ignore_negative_clock()
    node = None
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.create_timer(SIGNAL_S, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))
        while not told.is_set() and rclpy.ok():
            executor.spin_once()
        if before_end is not None:
            before_end(node)
            end_s = time.monotonic() + LAST_WORDS_S
            while (left_s := end_s - time.monotonic()) > 0.0:
                executor.spin_once(timeout_sec=left_s)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        if told.is_set():
            # The second SIGINT may come while the interpreter ends, which gives it back its default: to die of it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0
