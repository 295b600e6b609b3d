"""`dp-ros calibrate latency` from recorded motion: what it finds, writes, draws and refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dp_ros.calibration.motion_recording import MotionRecording, Samples
from dp_ros.cli.main import main
from dp_ros.data.episode_writer import EpisodeWriter
from dp_ros.paths import share_dir
from dp_ros.task import TaskSpec, load_task
from test.calibration.motion import Motion, sampled
from test.calibration.scenes import fixed_camera, wrist_camera

START_NS = 1_700_000_000_000_000_000
JOINTS = ("position agent_x", "position agent_y")


def samples(motion: Motion, rate_hz: float, latency_s: float, names: tuple[str, ...], seed: int) -> Samples:
    signal = sampled(motion, rate_hz, latency_s=latency_s, noise=0.01, gain=80.0, seed=seed)
    return Samples(START_NS + np.rint(signal.times_s * 1e9).astype(np.int64), signal.values, names)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(share_dir() / "config" / "tasks" / "pusht_image.yaml", tmp_path / "robot.yaml"))


def motion_file(
    folder: Path, task: TaskSpec, *, action_ms: float = 120, camera_ms: float = 90, wrist: bool = False
) -> Path:
    """A recorded motion: commands at 100 Hz, joints at 250 Hz, a camera at 30 Hz."""
    motion = Motion("moves", dim=2, seed=3)
    joints = samples(motion, 250, action_ms / 1e3, JOINTS, 1)
    stamps = samples(motion, 30, 0.0, ("x", "y"), 2).stamps_ns
    seen = motion.at((stamps - START_NS) / 1e9 - (action_ms + camera_ms) / 1e3)
    picture = wrist_camera(seen) if wrist else fixed_camera(seen)
    recording = MotionRecording(
        {
            "action": samples(motion, 100, 0.0, ("agent_x", "agent_y"), 4),
            "agent_pos": joints,
            "image": Samples(stamps, picture),
        }
    )
    path = folder / "motion.npz"
    recording.save(path, task)
    return path


def calibrate(*arguments: object) -> int:
    return main(["calibrate", "latency", *map(str, arguments)])


@pytest.mark.parametrize("wrist", [False, True])
def test_action_and_camera_are_calibrated_and_written(task_file: Path, tmp_path: Path, wrist: bool) -> None:
    data = motion_file(tmp_path, load_task(task_file), wrist=wrist)
    before = task_file.read_text()
    figures = tmp_path / "figures"
    assert calibrate("--task", task_file, "--data", data, "--figures", figures, "action", "image") == 0
    task = load_task(task_file)
    assert task.action.latency_s == pytest.approx(0.120, abs=0.01)
    assert task.observations["image"].latency_s == pytest.approx(0.090, abs=0.01)
    assert task.observations["agent_pos"].latency_s == 0.0
    comments = [line.split("#")[1] for line in before.splitlines() if "#" in line]
    assert [line.split("#")[1] for line in task_file.read_text().splitlines() if "#" in line] == comments
    for name in ("action", "image"):
        assert (figures / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "motion.npz", "robot.yaml"]


def test_a_dry_run_says_it_and_writes_nothing(
    task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = motion_file(tmp_path, load_task(task_file))
    before = task_file.read_bytes()
    assert calibrate("--task", task_file, "--data", data, "--figures", tmp_path, "--dry-run", "action") == 0
    assert task_file.read_bytes() == before
    assert "left as it is" in capsys.readouterr().out


def test_a_camera_is_counted_from_the_capture_times_of_the_joints(task_file: Path, tmp_path: Path) -> None:
    """Joints stamped 40 ms late show the camera 40 ms less late than it is, unless the task says so."""
    data = motion_file(tmp_path, load_task(task_file), action_ms=100, camera_ms=60)
    text = task_file.read_text()
    head, tail = text.split("agent_pos:")
    task_file.write_text(head + "agent_pos:" + tail.replace("latency_s: 0.0", "latency_s: 0.04", 1))
    assert calibrate("--task", task_file, "--data", data, "--figures", tmp_path, "image", "action") == 0
    task = load_task(task_file)
    assert task.observations["image"].latency_s == pytest.approx(0.1, abs=0.01)
    assert task.action.latency_s == pytest.approx(0.06, abs=0.01)


def test_a_robot_that_stood_still_is_refused_and_the_file_stays(
    task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = motion_file(tmp_path, load_task(task_file))
    still = MotionRecording.load(data)
    pictures = still.streams["image"]
    frozen = Samples(pictures.stamps_ns, np.repeat(pictures.values[:1], len(pictures.values), axis=0))
    MotionRecording({**still.streams, "image": frozen}).save(data, load_task(task_file))
    before = task_file.read_bytes()
    assert calibrate("--task", task_file, "--data", data, "--figures", tmp_path, "action", "image") == 2
    said = capsys.readouterr().err
    assert "image against agent_pos" in said and "nothing changes" in said
    assert task_file.read_bytes() == before


def test_episodes_of_a_recording_give_the_latencies_too(task_file: Path, tmp_path: Path) -> None:
    """Rows at 10 Hz: the streams of the recorded task, 50 ms of latency already taken off."""
    text = task_file.read_text().replace("latency_s: 0.0 ", "latency_s: 0.05 ", 1)
    task_file.write_text(text)
    task = load_task(task_file)
    assert task.observations["image"].latency_s == 0.05
    path = tmp_path / "demo.zarr"
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, task) as writer:
        for episode in range(6):
            motion = Motion("free", dim=2, seed=episode)
            times = np.arange(0, 12, 0.1)
            commands = 250 + 80 * motion.at(times)
            joints = 250 + 80 * motion.at(times - 0.15) + rng.normal(0, 0.5, commands.shape)
            small = fixed_camera(motion.at(times - 0.15 - 0.06), seed=episode)
            pictures = np.zeros((len(times), 96, 96, 3), dtype=np.uint8)
            pictures[:, :48, :64] = small[..., None]
            for i, time_s in enumerate(times):
                writer.add(
                    {
                        "image": pictures[i],
                        "agent_pos": joints[i].astype(np.float32),
                        "action": commands[i],
                        "timestamp": time_s,
                    }
                )
            writer.save(episode)
    assert calibrate("--task", task_file, "--data", path, "--figures", tmp_path, "action", "image") == 0
    task = load_task(task_file)
    assert task.action.latency_s == pytest.approx(0.15, abs=0.01)
    assert task.observations["image"].latency_s == pytest.approx(0.05 + 0.06, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "DATA", "wrist"], "no stream 'wrist'"),
        (["--data", "DATA", "image", "--against", "elsewhere"], "with 'elsewhere'"),
        (["--data", "DATA", "action", "--against", "image"], "pictures of image"),
        (["--data", "DATA"], "name streams"),
        (["--data", "nowhere.npz", "action"], "is not there"),
        (["--data", "TASK", "action"], "is not a recording"),
        (["--data", "DATA", "--out", "x.npz", "action"], "--out keeps"),
        (["--record", "0.1", "action"], "expected 1 to 3600"),
        (["--record", "20"], "--record alone"),
        (["--data", "DATA", "action", "--longest", "9"], "0.05 to 5"),
    ],
)
def test_a_mistake_is_named(
    task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    places = {"DATA": str(motion_file(tmp_path, load_task(task_file))), "TASK": str(task_file)}
    before = task_file.read_bytes()
    given = [places.get(argument, argument) for argument in arguments]
    assert calibrate("--task", task_file, "--figures", tmp_path, *given) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert task_file.read_bytes() == before
