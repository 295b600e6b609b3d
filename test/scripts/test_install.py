"""Set-up: which ROS 2 it takes, what it asks for, that it does nothing twice. Nothing is installed here."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/install.py, loaded as if it lay in an empty checkout."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "requirements", checkout / "requirements")
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(module, "VENV", checkout / ".venv")
    monkeypatch.setattr(module, "BUILT", checkout / ".ros")
    monkeypatch.setattr(module, "STAMP", checkout / ".venv" / "dp_ros_setup.json")
    monkeypatch.setattr(module, "REQUIREMENTS", checkout / "requirements")
    return module


def ros_prefix(folder: Path) -> Path:
    """A folder that looks like a ROS 2 with rclpy."""
    index = folder / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "rclpy").touch()
    return folder


def test_without_ros_the_wheels_are_used(install: ModuleType) -> None:
    assert install.sourced_ros({}) is None


def test_a_sourced_jazzy_is_used_also_under_an_overlay(install: ModuleType, tmp_path: Path) -> None:
    overlay, jazzy = tmp_path / "overlay", ros_prefix(tmp_path / "jazzy")
    environment = {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": f"{overlay}{os.pathsep}{jazzy}"}
    assert install.sourced_ros(environment) == jazzy


def test_our_own_environment_does_not_count_as_a_sourced_ros(install: ModuleType) -> None:
    venv = ros_prefix(install.VENV)
    environment = {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": f"{install.BUILT}/install{os.pathsep}{venv}"}
    assert install.sourced_ros(environment, install.ROOT) is None


def test_another_distribution_is_refused_by_name(install: ModuleType, tmp_path: Path) -> None:
    environment = {"ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": str(ros_prefix(tmp_path / "humble"))}
    with pytest.raises(install.SetupError, match="'humble'.*jazzy"):
        install.sourced_ros(environment)


def test_missing_tools_are_named_with_their_packages(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda tool: None if tool == "cmake" else f"/usr/bin/{tool}")
    with pytest.raises(install.SetupError, match=r"missing: cmake.*\n.*apt-get install cmake"):
        install.check_tools(None)


def test_with_wheels_the_pins_are_the_file_itself(install: ModuleType) -> None:
    assert install.constraints(None) == install.REQUIREMENTS / "constraints.txt"


def test_beside_a_sourced_ros_numpy_is_the_one_it_has(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"  # stands for the system's Python with Ubuntu's numpy
    python.write_text("#!/bin/sh\necho 1.26.4\n")
    python.chmod(0o755)
    monkeypatch.setattr(install.sys, "executable", str(python))
    pins = install.constraints(tmp_path / "jazzy").read_text().splitlines()
    names = [line.split("==")[0] for line in pins if "==" in line]
    assert "numpy==1.26.4" in pins
    assert len(names) == len(set(names))
    overrides = (install.REQUIREMENTS / "overrides-ros.txt").read_text().splitlines()
    assert {line for line in overrides if "==" in line} <= set(pins)


def test_what_was_installed_at_the_same_pins_is_not_installed_again(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(install, "run", lambda command, *_: commands.append([str(part) for part in command]))
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: None)
    done: dict[str, str] = {}
    install.install_packages("run", None, done)
    install.install_packages("run", None, done)
    assert len(commands) == 1
    assert not any("train.txt" in part for part in commands[0])
    install.install_packages("dev", None, done)
    assert any("train.txt" in part for part in commands[1])
    with (install.REQUIREMENTS / "constraints.txt").open("a") as pins:
        pins.write("another==1.0\n")
    install.install_packages("run", None, done)
    assert len(commands) == 3


def test_the_wheels_build_paths_are_rewritten(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = f"/opt/python/{tag}-{tag}"
    file = install.VENV / "share/std_msgs/cmake/export.cmake"
    file.parent.mkdir(parents=True)
    file.write_text(
        f'"{base}/include/{version};{base}/lib/{version}/site-packages/numpy/_core/include;/kept"'
    )
    answer = subprocess.CompletedProcess([], 0, stdout="/here/python\n/here/numpy\n")
    monkeypatch.setattr(install.subprocess, "run", lambda *_, **__: answer)
    assert install.rewrite_wheel_paths() == 1
    assert file.read_text() == '"/here/python;/here/numpy;/kept"'
    assert install.rewrite_wheel_paths() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_browser_is_installed_only_where_there_is_none_and_failing_harms_nothing(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: bool
) -> None:
    ran: list[str] = []

    def stand_in(command: list[str], **options: object) -> None:
        ran.append(command[1])
        if fails:
            raise subprocess.CalledProcessError(100, command)

    monkeypatch.setattr(install.subprocess, "run", stand_in)
    monkeypatch.setattr(install.Path, "read_text", lambda path, *a, **k: "ID=debian\n")
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
    install.install_browser()
    assert ran == []
    monkeypatch.setattr(install.shutil, "which", lambda name: name if name == "apt-get" else None)
    install.install_browser()
    assert ran == (["update"] if fails else ["update", "install"])
    assert ("are skipped" in capsys.readouterr().out) is fails
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    install.install_browser()
    assert "sudo apt-get install chromium" in capsys.readouterr().out


def test_every_requirement_is_pinned_once() -> None:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pinned = [line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line]
    assert len(pinned) == len(set(pinned))
    for file in ("run", "ros", "build", "train", "dev"):
        for line in (ROOT / "requirements" / f"{file}.txt").read_text().splitlines():
            name = line.split("#")[0].split("[")[0].split("<")[0].split(">")[0].strip()
            assert not name or name.lower().replace("_", "-") in pinned, f"{name} of {file}.txt has no pin"


SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]


@pytest.fixture
def set_up_checkout(tmp_path: Path) -> Path:
    """A checkout that looks set up with wheels, in a folder with a space in its name."""
    root = tmp_path / "my robot"
    for folder in (
        ".venv/lib/python3.11/site-packages/ros_rcl.libs",
        ".ros/install/lib/python3.11/site-packages",
    ):
        (root / folder).mkdir(parents=True)
    (root / ".venv/dp_ros_setup.json").write_text(json.dumps({"root": str(root), "ros": "wheels"}, indent=1))
    shutil.copy(ROOT / "env.sh", root)
    return root


def variables(shell: str, script: str) -> dict[str, str]:
    """Environment after a script, as that shell leaves it."""
    command = [shell, *(["-f"] if shell == "zsh" else []), "-uc", f"{script} && env -0"]
    minimal = {"PATH": os.defpath, "HOME": "/"}
    done = subprocess.run(command, env=minimal, capture_output=True, text=True, check=True, cwd="/")
    assert done.stderr == ""
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


@pytest.mark.parametrize("shell", SHELLS)
def test_env_sh_points_at_its_own_checkout(shell: str, set_up_checkout: Path) -> None:
    result = variables(shell, f'source "{set_up_checkout}/env.sh"')
    assert result["PATH"].startswith(f"{set_up_checkout}/.venv/bin:{set_up_checkout}/.ros/install/bin:")
    assert result["PYTHONPATH"].split(":") == [
        str(set_up_checkout),
        f"{set_up_checkout}/.ros/install/lib/python3.11/site-packages",
    ]
    assert f"{set_up_checkout}/.venv/lib/python3.11/site-packages/ros_rcl.libs" in result["LD_LIBRARY_PATH"]
    assert result["ROS_DISTRO"] == "jazzy"
    assert result["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


@pytest.mark.parametrize("shell", SHELLS)
def test_env_sh_twice_is_as_once(shell: str, set_up_checkout: Path) -> None:
    source = f'source "{set_up_checkout}/env.sh"'
    assert variables(shell, f"{source} && {source}") == variables(shell, source)


def test_env_sh_keeps_the_discovery_range_that_was_set(set_up_checkout: Path) -> None:
    script = f'export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET; source "{set_up_checkout}/env.sh"'
    assert variables("bash", script)["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "SUBNET"


def test_env_sh_before_set_up_says_what_to_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "env.sh", tmp_path)
    done = subprocess.run(["bash", "-c", f"source {tmp_path}/env.sh"], capture_output=True, text=True)
    assert "make -C" in done.stderr
    assert "setup" in done.stderr
