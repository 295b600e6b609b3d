"""The dp-ros command itself: help at once, mistakes in plain words, exit statuses."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dp_ros.cli import main as cli
from dp_ros.errors import UserError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb `wave` whose run() a test sets."""
    module = types.ModuleType("dp_ros.cli.wave")
    module.add_arguments = lambda parser: parser.add_argument("--times", type=int, default=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dp_ros.cli.wave", module)
    monkeypatch.setitem(cli.VERBS, "wave", "wave at the robot")
    return module


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text and summary in text for verb, summary in cli.VERBS.items())


def test_help_imports_no_library() -> None:
    code = (
        "import sys; from dp_ros.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'rclpy', 'numpy', 'rich', 'pydantic', 'cv2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_its_arguments(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb in ("train", "export"):
        pytest.importorskip("torch")
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: dp-ros {verb}" in capsys.readouterr().out


def test_an_unknown_verb_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["colect"]) == 2
    assert "did you mean `dp-ros collect`?" in capsys.readouterr().err


def test_the_exit_status_is_the_verbs(verb: types.ModuleType) -> None:
    verb.run = lambda args: args.times  # type: ignore[attr-defined]
    assert cli.main(["wave"]) == 1
    assert cli.main(["wave", "--times", "3"]) == 3


def test_a_persons_mistake_is_one_line_and_status_2(
    verb: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        raise UserError("seed:=many: expected a whole number")

    verb.run = run  # type: ignore[attr-defined]
    assert cli.main(["wave"]) == 2
    assert capsys.readouterr().err == "dp-ros wave: seed:=many: expected a whole number\n"


def test_an_interrupt_is_130(verb: types.ModuleType) -> None:
    def run(_: object) -> int:
        raise KeyboardInterrupt

    verb.run = run  # type: ignore[attr-defined]
    assert cli.main(["wave"]) == 130


def test_a_bug_keeps_its_traceback(verb: types.ModuleType) -> None:
    def run(_: object) -> int:
        raise ZeroDivisionError

    verb.run = run  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["wave"])


@pytest.mark.parametrize(("missing", "advice"), [("torch", "make setup-dev"), ("rclpy", "source ./env.sh")])
def test_a_missing_library_is_named_with_the_way_to_get_it(
    missing: str, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("dp_ros.cli.main.importlib.import_module", fail)
    assert cli.main(["train"]) == 2
    message = capsys.readouterr().err
    assert missing in message
    assert advice in message


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dp_ros.cli.main", "task", "check", "pusht_state"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode != 0
    assert done.stderr == ""


def test_task_check_shows_what_the_file_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["task", "check", "pusht_state"]) == 0
    text = capsys.readouterr().out
    for part in ("pusht_state", "10 Hz", "keypoint", "/pusht/joint_trajectory", "agent_x"):
        assert part in text


def test_task_check_refuses_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nrate: 10\n")
    assert cli.main(["task", "check", str(file)]) == 2
    assert "mine.yaml" in capsys.readouterr().err
