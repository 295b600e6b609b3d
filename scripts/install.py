"""Makes the environment that everything here runs in: `.venv/` and the built interfaces in `.ros/`.

With no ROS 2 sourced, ROS 2 Jazzy comes from wheels into `.venv`. With Jazzy sourced, `.venv` lies on
top of it and takes rclpy, and the numpy that rclpy was compiled against, from there. Each step leaves
a hash of its inputs in `.venv/dp_ros_setup.json` and is skipped while that hash is the same, so
running this again takes a second. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BUILT = ROOT / ".ros"
STAMP = VENV / "dp_ros_setup.json"
REQUIREMENTS = ROOT / "requirements"
LEVELS = {"run": ["run"], "dev": ["run", "train", "dev"]}
BROWSERS = ["chromium", "chromium-browser", "google-chrome"]
CMAKE_SOURCES = ["CMakeLists.txt", "package.xml", "scripts/node.in", "scripts/dp-ros"]
CMAKE_SOURCES += [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("dp_ros/**/*.[ch]pp"))]


class SetupError(Exception):
    """Something is missing on this machine; the message says what, and how to get it."""


def say(text: str) -> None:
    """Print one line of what is being done, at once."""
    print(f"setup: {text}", flush=True)


def sourced_ros(environment: dict[str, str], root: Path = ROOT) -> Path | None:
    """Prefix of the ROS 2 Jazzy that the shell has sourced, or None; our own `.venv` does not count.

    Raises SetupError for another distribution, which would fail later and less clearly.
    """
    prefixes = [Path(entry) for entry in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    foreign = [prefix for prefix in prefixes if not prefix.resolve().is_relative_to(root)]
    with_rclpy = [p for p in foreign if (p / "share/ament_index/resource_index/packages/rclpy").exists()]
    distribution = environment.get("ROS_DISTRO", "")
    if distribution not in ("", "jazzy"):
        raise SetupError(
            f"ROS_DISTRO is {distribution!r}; dp_ros is made for ROS 2 jazzy.\n"
            "  Either source Jazzy instead (source /opt/ros/jazzy/setup.bash),\n"
            f"  or start a shell that does not source {distribution}: ROS 2 Jazzy then comes from wheels."
        )
    return with_rclpy[0] if with_rclpy else None


def check_tools(ros_prefix: Path | None) -> None:
    """Raise SetupError naming every tool that is missing, with the command that installs them."""
    missing: dict[str, str] = {}
    for tool, package in {"cmake": "cmake", "gcc": "gcc", "g++": "g++", "make": "make"}.items():
        if shutil.which(tool) is None:
            missing[tool] = package
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        missing["the venv module"] = "python3-venv"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        missing["Python.h"] = "python3-dev"
    if missing:
        raise SetupError(
            f"missing: {', '.join(missing)} (for {sys.executable}).\n"
            f"  Debian, Ubuntu: sudo apt-get install {' '.join(missing.values())}"
        )
    if ros_prefix and subprocess.run([sys.executable, "-c", "import rclpy"], capture_output=True).returncode:
        raise SetupError(
            f"ROS 2 is sourced from {ros_prefix}, but {sys.executable} cannot import rclpy.\n"
            "  Use the Python that this ROS was built for: make setup PYTHON=/usr/bin/python3,\n"
            "  or start a shell without ROS 2: it then comes from wheels."
        )


def run(command: list[str | Path], environment: dict[str, str], log: str, hint: str) -> None:
    """Run a step with its output in `.ros/log`; on failure show the end of it and the hint."""
    path = BUILT / "log" / f"{log}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as output:
        process = subprocess.run(command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    if process.returncode:
        tail = "\n".join("  | " + line for line in path.read_text(errors="replace").splitlines()[-25:])
        raise SetupError(f"this failed: {' '.join(map(str, command))}\n{tail}\n  All of it: {path}\n  {hint}")


def digest(*parts: str | Path) -> str:
    """Hash of texts and of files (name and content)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(str(part.relative_to(ROOT)).encode() + b"\0" + part.read_bytes())
        else:
            total.update(part.encode())
        total.update(b"\0")
    return total.hexdigest()[:16]


def make_venv(ros_prefix: Path | None) -> dict[str, str]:
    """Make or keep `.venv`; return what its stamp says was done in it already."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    identity = {"root": str(ROOT), "ros": str(ros_prefix or "wheels"), "python": version}
    python = VENV / "bin/python"
    works = (
        python.exists()
        and not subprocess.run(
            [python, "-m", "pip", "--version"], env=environment_of(ros_prefix), capture_output=True
        ).returncode
    )
    done: dict[str, str] = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    stale = done and any(done.get(key, value) != value for key, value in identity.items())
    if works and not stale:
        return {**done, **identity}
    if VENV.exists():
        was = ", ".join(f"{key} {done.get(key)}" for key, value in identity.items() if done.get(key) != value)
        say(f".venv is {f'of another kind ({was})' if stale else 'broken'}: making it anew")
        shutil.rmtree(VENV)
    shutil.rmtree(BUILT, ignore_errors=True)  # CMake remembers the old interpreter
    # Not sys.executable, which may be the Python of the .venv that was just removed.
    base = getattr(sys, "_base_executable", sys.executable)
    say(f"making .venv with Python {version} ({base})" + (f" on top of {ros_prefix}" if ros_prefix else ""))
    options = ["--system-site-packages"] if ros_prefix else []
    run([base, "-m", "venv", *options, VENV], dict(os.environ), "venv", "Is python3-venv installed?")
    return identity


def environment_of(ros_prefix: Path | None) -> dict[str, str]:
    """Environment variables for programs run in `.venv`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "COLCON_"))}
    for name in ("PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER"):
        environment.pop(name, None)
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["PATH"] = f"{VENV / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    if ros_prefix is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        libraries = [
            str(VENV / "lib"),
            *map(str, (VENV / "lib" / version / "site-packages").glob("ros_*.libs")),
        ]
        environment.pop("PYTHONPATH", None)
        environment["PYTHONNOUSERSITE"] = "1"
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(VENV)
        environment.update(ROS_DISTRO="jazzy", ROS_VERSION="2", ROS_PYTHON_VERSION="3")
    else:
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "PYTHONPATH", "LD_LIBRARY_PATH"):
            entries = [
                e for e in environment.get(name, "").split(os.pathsep) if e and not e.startswith(str(ROOT))
            ]
            environment[name] = os.pathsep.join(entries)
    return environment


def constraints(ros_prefix: Path | None) -> Path:
    """File of version pins for pip: constraints.txt, adjusted to what a sourced ROS 2 was built with."""
    pins = REQUIREMENTS / "constraints.txt"
    if ros_prefix is None:
        return pins
    command = [sys.executable, "-c", "import numpy; print(numpy.__version__)"]
    numpy = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not numpy:
        raise SetupError(
            f"{sys.executable} has no numpy, which rclpy needs: sudo apt-get install python3-numpy"
        )
    replaced = {"numpy": f"numpy=={numpy}"}
    if numpy.startswith("1."):
        for line in (REQUIREMENTS / "overrides-ros.txt").read_text().splitlines():
            if "==" in line:
                replaced[line.split("==")[0]] = line
    kept = [line for line in pins.read_text().splitlines() if line.split("==")[0] not in replaced]
    adjusted = BUILT / "constraints.txt"
    adjusted.parent.mkdir(exist_ok=True)
    adjusted.write_text("\n".join([*kept, *replaced.values()]) + "\n")
    return adjusted


def install_packages(level: str, ros_prefix: Path | None, done: dict[str, str]) -> None:
    """Install the requirement files of a level that are not installed at these pins yet."""
    pins = constraints(ros_prefix)
    files = [
        REQUIREMENTS / f"{name}.txt" for name in ([] if ros_prefix else ["ros"]) + ["build", *LEVELS[level]]
    ]
    wanted = {f"packages {file.stem}": digest(file, pins) for file in files}
    if all(done.get(key) == value for key, value in wanted.items()):
        return
    size = "about 1.5 GB with PyTorch" if level == "dev" else "about 500 MB"
    say(f"installing packages ({', '.join(file.stem for file in files)}; {size} the first time)")
    command: list[str | Path] = [VENV / "bin/python", "-m", "pip", "install", "--no-input"]
    command += ["--no-compile", "-c", pins]  # Python compiles what is imported, which is little of it
    for file in files:
        command += ["-r", file]
    hint = "If it says that it could not connect or find a version: is the network up, and a proxy set?"
    run(command, environment_of(ros_prefix), "pip", hint)
    for key in [key for key in done if key.startswith("packages ")]:
        if key not in wanted:
            del done[key]  # installed at other pins perhaps; look again when that level is asked for
    done.update(wanted)


def rewrite_wheel_paths() -> int:
    """Point the CMake files of the ROS wheels, which name their build machine, at this environment."""
    code = "import sysconfig, numpy; print(sysconfig.get_path('include')); print(numpy.get_include())"
    answer = subprocess.run(
        [VENV / "bin/python", "-c", code],
        env=environment_of(None),
        capture_output=True,
        text=True,
        check=True,
    )
    python_include, numpy_include = answer.stdout.split("\n")[:2]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    changed = 0
    for path in sorted(VENV.glob("share/**/*.cmake")):
        text = path.read_text(errors="surrogateescape")
        if "/opt/python/cp" not in text:
            continue
        for tag in {part.split("/")[0] for part in text.split("/opt/python/")[1:]}:
            base = f"/opt/python/{tag}"
            text = text.replace(f"{base}/lib/{version}/site-packages/numpy/_core/include", numpy_include)
            text = text.replace(f"{base}/include/{version}", python_include)
        path.write_text(text, errors="surrogateescape")
        changed += 1
    return changed


def build(ros_prefix: Path | None, done: dict[str, str]) -> None:
    """Build interfaces and compiled code with colcon into `.ros/install`, the Python sources as links."""
    interfaces = sorted(p for kind in ("msg", "srv", "action") for p in (ROOT / kind).glob(f"*.{kind}"))
    patterns = ("dp_ros/nodes/*_node.py", "launch/*", "config/**/*", "models/*/*")  # installed as links
    linked = sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))
    inputs = [*interfaces, *(ROOT / name for name in CMAKE_SOURCES)]
    packages = done.get("packages ros", str(ros_prefix))
    wanted = digest(*inputs, *linked, packages)
    if done.get("build") == wanted and (BUILT / "install/setup.bash").exists():
        return
    say(f"building {len(interfaces)} interfaces and the inference library with colcon (about a minute)")
    command: list[str | Path] = [VENV / "bin/colcon", "--log-base", BUILT / "log", "build", "--merge-install"]
    command += ["--symlink-install", "--base-paths", ROOT, "--packages-select", "dp_ros"]
    command += ["--build-base", BUILT / "build", "--install-base", BUILT / "install"]
    command += ["--event-handlers", "console_direct+", "--cmake-args", "-DBUILD_TESTING=OFF"]
    command += [f"-DPython3_EXECUTABLE={VENV / 'bin/python'}", "-DPython3_FIND_VIRTUALENV=ONLY"]
    run(command, environment_of(ros_prefix), "colcon", "`make clean` and `make setup` build from scratch.")
    done["build"] = wanted


def install_browser() -> None:
    """Install Chromium for the console's tests where that takes no questions; they are skipped without one."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    debian = shutil.which("apt-get") and "ID=debian" in Path("/etc/os-release").read_text().splitlines()
    if not debian or os.geteuid() != 0:
        say(
            "no Chromium: the console's tests in a browser are skipped (Debian: sudo apt-get install chromium)"
        )
        return
    say("installing Chromium for the console's tests")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update"],
        ["apt-get", "install", "-y", "--no-install-recommends", "chromium"],
    ):
        try:
            subprocess.run(command, env=quiet, capture_output=True, check=True, timeout=600)
        except (subprocess.SubprocessError, OSError):
            say(f"`{' '.join(command)}` failed: the console's tests in a browser are skipped")
            return


def main() -> int:
    """Set up; return an exit status."""
    parser = argparse.ArgumentParser(description="Make .venv and build the ROS 2 interfaces.")
    parser.add_argument("level", nargs="?", choices=LEVELS, default="run", help="dev adds training and tests")
    level = parser.parse_args().level
    started = time.monotonic()
    try:
        ros_prefix = sourced_ros(dict(os.environ))
        check_tools(ros_prefix)
        done = make_venv(ros_prefix)
        install_packages(level, ros_prefix, done)
        STAMP.write_text(json.dumps(done, indent=1))
        if ros_prefix is None:
            rewrite_wheel_paths()
        build(ros_prefix, done)
        STAMP.write_text(json.dumps(done, indent=1))
        if level == "dev":
            install_browser()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    source = f"ROS 2 from {ros_prefix}" if ros_prefix else "ROS 2 Jazzy from wheels"
    say(f"ready ({source}, {time.monotonic() - started:.0f} s); a shell for it: source ./env.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main())
