"""Nodes of a bring-up as processes: stopped in every case, also when the one that started them is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dp_ros import processes
from dp_ros.bringup import Bringup, NodeSpec
from dp_ros.errors import UserError
from dp_ros.processes import command_of, running

# Stand-ins for nodes: each says when it is ready, and what it does with signals is its point.
POLITE = """
import signal, sys, time
def stop(number, frame):
    print('stopping on', signal.Signals(number).name, flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
print('ready', flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
while True: time.sleep(60)
"""
WITH_CHILD = """
import signal, subprocess, sys
ignores_sigint = 'import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)'
child = subprocess.Popen([sys.executable, '-c', ignores_sigint])
print('child', child.pid, flush=True)
print('ready', flush=True)
child.wait()
"""
CRASHING = """
import sys
print('about to fail', flush=True)
sys.exit('no camera at /dev/video0')
"""


def bringup(*names: str) -> Bringup:
    return Bringup("test", tuple(NodeSpec(name, f"{name}_node") for name in names))


def stand_in(**programs: str) -> Callable[[NodeSpec], list[str]]:
    return lambda node: [sys.executable, "-c", programs[node.name]]


def wait_until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_leaving_stops_every_node_by_sigint() -> None:
    with running(bringup("a", "b"), command=stand_in(a=POLITE, b=POLITE)) as nodes:
        wait_until(lambda: all("ready" in nodes.output(name) for name in "ab"))
        pids = nodes.pids
        nodes.check()
    assert not any(map(exists, pids.values()))
    for name in "ab":
        assert nodes.output(name)[-1] == "stopping on SIGINT"
        assert nodes.ended()[name] == 0


def test_a_node_that_ignores_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0))
    monkeypatch.setattr(processes, "STOP_SEQUENCE", steps)
    with running(bringup("a"), command=stand_in(a=STUBBORN)) as nodes:
        wait_until(lambda: "ready" in nodes.output("a"))
    assert nodes.ended() == {"a": -signal.SIGKILL}


def test_what_a_node_started_is_stopped_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ((signal.SIGINT, 0.3), (signal.SIGTERM, 5.0))
    monkeypatch.setattr(processes, "STOP_SEQUENCE", steps)
    with running(bringup("a"), command=stand_in(a=WITH_CHILD)) as nodes:
        wait_until(lambda: "ready" in nodes.output("a"))
        child = int(nodes.output("a")[0].split()[1])
        assert exists(child)
    assert not exists(child)


def test_a_dead_node_is_named_with_its_last_words(tmp_path: Path) -> None:
    programs = stand_in(camera=CRASHING, arm=POLITE)
    with running(bringup("camera", "arm"), log_dir=tmp_path, command=programs) as nodes:
        wait_until(lambda: "camera" in nodes.ended())
        with pytest.raises(UserError) as error:
            nodes.check()
        arm = nodes.pids["arm"]
        assert exists(arm)
    assert not exists(arm)
    message = str(error.value)
    for part in ("camera", "exit status 1", "no camera at /dev/video0", str(tmp_path / "camera.log")):
        assert part in message
    assert (tmp_path / "camera.log").read_text() == "about to fail\nno camera at /dev/video0\n"


def test_a_node_that_is_not_required_may_end() -> None:
    optional = Bringup("test", (NodeSpec("viewer", "viewer_node", required=False),))
    with running(optional, command=stand_in(viewer=CRASHING)) as nodes:
        wait_until(lambda: nodes.ended() == {"viewer": 1})
        nodes.check()


def test_a_killed_node_is_gone_when_kill_returns() -> None:
    with running(bringup("a"), command=stand_in(a=WITH_CHILD)) as nodes:
        wait_until(lambda: "ready" in nodes.output("a"))
        child = int(nodes.output("a")[0].split()[1])
        nodes.kill("a")
        assert not exists(nodes.pids["a"])
        assert not exists(child)
        with pytest.raises(UserError, match="SIGKILL"):
            nodes.check()


def test_an_error_while_nodes_run_stops_them_and_is_passed_on() -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        running(bringup("a"), command=stand_in(a=POLITE)) as nodes,
    ):
        wait_until(lambda: "ready" in nodes.output("a"))
        raise RuntimeError("mine")
    assert not exists(nodes.pids["a"])


def test_every_line_is_echoed_with_the_name_of_its_node() -> None:
    heard: list[tuple[str, str]] = []

    def echo(name: str, line: str) -> None:
        heard.append((name, line))

    with running(bringup("a", "b"), command=stand_in(a=POLITE, b=CRASHING), echo=echo):
        wait_until(lambda: {("a", "ready"), ("b", "about to fail")} <= set(heard))


RUNNER = """
import json, sys, time
from dp_ros.bringup import Bringup, NodeSpec
from dp_ros.processes import running
programs = json.loads(sys.argv[1])
nodes = Bringup('test', tuple(NodeSpec(name, name) for name in programs))
with running(nodes, command=lambda node: [sys.executable, '-c', programs[node.name]]) as processes:
    while not all('ready' in processes.output(name) for name in programs):
        time.sleep(0.01)
    lines = [line for name in programs for line in processes.output(name)]
    children = [int(line.split()[1]) for line in lines if line.startswith('child')]
    print(json.dumps([*processes.pids.values(), *children]), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGINT, -signal.SIGINT),
    ],
)
def test_nothing_is_left_behind_when_the_starter_is_signalled(number: int, status: int) -> None:
    programs = json.dumps({"polite": POLITE, "with_child": WITH_CHILD})
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, programs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as starter:
        assert starter.stdout is not None
        started = json.loads(starter.stdout.readline())
        try:
            assert len(started) == 3
            assert all(map(exists, started))
            starter.send_signal(number)
            assert starter.wait(timeout=20) == status
            wait_until(lambda: not any(map(exists, started)))
        finally:
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_the_command_line_gives_names_remappings_and_typed_parameters() -> None:
    node = NodeSpec(
        "left",
        "policy_node",
        {"model": "models/a b", "lockstep": True, "seed": 7, "names": ["x", "y"], "task": "", "rate_hz": 2.0},
        namespace="arm",
        remappings={"joint_states": "/arm/joint_states"},
    )
    assert command_of(node)[1:] == [
        *("-m", "dp_ros.nodes.policy_node", "--ros-args", "-r", "__node:=left", "-r", "__ns:=/arm"),
        *("-r", "joint_states:=/arm/joint_states"),
        *("-p", 'model:="models/a b"', "-p", "lockstep:=true", "-p", "seed:=7"),
        *("-p", 'names:=["x", "y"]', "-p", 'task:=""', "-p", "rate_hz:=2.0"),
    ]
