"""Runs the nodes of a bring-up as processes, and leaves none of them behind.

Used where `ros2 launch` is not: by `dp-ros up`, by the commands that need nodes, and by the system tests.
Nodes are stopped with SIGINT, which ROS nodes answer by shutting down, then SIGTERM, then SIGKILL. Should
this process itself be killed, a guard process (`process_guard.py`) sees its pipe close and does the same.
Each node has a session of its own: a Ctrl-C at the terminal reaches only this process, which then decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from dp_ros import process_guard
from dp_ros.bringup import Bringup, NodeSpec
from dp_ros.dds import profile_variables
from dp_ros.errors import UserError

#: Called with the node's name and a line of its output.
Echo = Callable[[str, str], None]

STOP_SEQUENCE = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0))  # and seconds to wait
_KEPT_LINES = 200


def command_of(node: NodeSpec) -> list[str]:
    """Command line that runs a node with this interpreter."""
    command = [sys.executable, "-m", f"dp_ros.nodes.{node.executable}", "--ros-args"]
    command += ["-r", f"__node:={node.name}"]
    if node.namespace:
        command += ["-r", f"__ns:=/{node.namespace.strip('/')}"]
    for source, target in node.remappings.items():
        command += ["-r", f"{source}:={target}"]
    for name, value in node.parameters.items():
        command += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, and keeps "1" a string
    return command


class NodeProcess:
    """One running node, its last lines of output, and its log file."""

    def __init__(
        self, node: NodeSpec, command: list[str], environment: Mapping[str, str], log: Path | None, echo: Echo
    ) -> None:
        self.node = node
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._log = log
        self._echo = echo
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {node.name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._popen.pid

    def ended(self) -> int | None:
        """Exit status (minus the signal's number if a signal ended it), or None while it runs."""
        return self._popen.poll()

    def send(self, number: int) -> None:
        """Send a signal to the node and to every process it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def alive(self) -> bool:
        """Whether the node or a process that it started is there."""
        return self.ended() is None or process_guard.group_exists(self.pid)

    def describe_end(self) -> str:
        """How the node ended and the last lines it wrote, for a person."""
        status = self.ended()
        if status is None:
            return f"node {self.node.name} is running"
        self._reader.join(timeout=1.0)
        how = f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        last = "\n".join(f"  {self.node.name} | {line}" for line in list(self.lines)[-15:])
        where = f"\n  all of its output: {self._log}" if self._log else ""
        return f"node {self.node.name} ended with {how}" + (f":\n{last}" if last else "") + where

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log.open("a", encoding="utf-8")) if self._log else None
            for raw in stack.enter_context(self._popen.stdout):
                line = raw.decode("utf-8", "replace").rstrip("\n")
                self.lines.append(line)
                if log:
                    print(line, file=log, flush=True)
                self._echo(self.node.name, line)


class Processes:
    """The nodes of a bring-up while they run."""

    def __init__(self, nodes: Mapping[str, NodeProcess]) -> None:
        self._nodes = dict(nodes)

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each node."""
        return {name: node.pid for name, node in self._nodes.items()}

    def output(self, name: str) -> list[str]:
        """Last lines that a node wrote."""
        return list(self._nodes[name].lines)

    def ended(self) -> dict[str, int]:
        """Exit status of each node that has ended."""
        status = {name: node.ended() for name, node in self._nodes.items()}
        return {name: value for name, value in status.items() if value is not None}

    def describe_end(self, name: str) -> str:
        """How a node ended and the last lines it wrote, for a person."""
        return self._nodes[name].describe_end()

    def check(self) -> None:
        """Raise UserError, with its last lines of output, if a required node has ended."""
        for node in self._nodes.values():
            if node.node.required and node.ended() is not None:
                raise UserError(node.describe_end())

    def send(self, name: str, number: int) -> None:
        """Send a signal to a node and to what it started."""
        self._nodes[name].send(number)

    def kill(self, name: str) -> None:
        """Kill a node as a crash would, and wait until it is gone."""
        self._nodes[name].send(signal.SIGKILL)
        self._wait_until(lambda: not self._nodes[name].alive(), 5.0)

    def stop(self) -> None:
        """Stop every node: SIGINT, SIGTERM, SIGKILL, each with its time; returns when all are gone."""
        for number, patience_s in STOP_SEQUENCE:
            alive = [node for node in self._nodes.values() if node.alive()]
            for node in alive:
                node.send(number)
            if self._wait_until(lambda: not any(node.alive() for node in self._nodes.values()), patience_s):
                return

    def _wait_until(self, done: Callable[[], bool], patience_s: float) -> bool:
        """Wait for a condition; a Ctrl-C meanwhile ends the waiting."""
        deadline = time.monotonic() + patience_s
        try:
            while not done():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
        except KeyboardInterrupt:
            return False
        return True


@contextlib.contextmanager
def running(
    bringup: Bringup,
    *,
    log_dir: Path | None = None,
    echo: Echo | None = None,
    environment: Mapping[str, str] | None = None,
    command: Callable[[NodeSpec], list[str]] = command_of,
) -> Iterator[Processes]:
    """Start the nodes of a bring-up; stop them all on leaving, however that happens.

    Args:
        bringup: what to start.
        log_dir: folder for one `<node>.log` each; None keeps only the last lines.
        echo: is called, from another thread, with each line a node writes.
        environment: variables for the nodes; this process's own if None.
        command: how a node is run; tests put other programs in the place of nodes.
    """
    if log_dir is not None:
        log_dir.mkdir(parents=True, exist_ok=True)
    given = os.environ if environment is None else environment
    variables = {**given, **profile_variables(given), "PYTHONUNBUFFERED": "1"}
    nodes: dict[str, NodeProcess] = {}
    processes = Processes(nodes)
    with _signals_end_the_run(), process_guard.guard() as protect:
        try:
            for node in bringup.nodes:
                log = log_dir / f"{node.name}.log" if log_dir else None
                started = NodeProcess(node, command(node), variables, log, echo or _silent)
                protect(started.pid)
                nodes[node.name] = started
            processes = Processes(nodes)
            yield processes
        finally:
            Processes(nodes).stop()


def _silent(name: str, line: str) -> None:
    """Take a line of output and show nothing."""


@contextlib.contextmanager
def _signals_end_the_run() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP, which would end this process at once, into an exit that cleans up."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    mine = [number for number, handler in previous.items() if handler is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
