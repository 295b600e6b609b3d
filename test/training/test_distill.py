"""Distillation: what the student is told, and that a person can run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dp_ros.cli.main import main  # noqa: E402
from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.export import export_policy  # noqa: E402
from dp_ros.inference.load import load_engine  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec, sampling_noise  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training.distill import SEGMENTS, Teacher, student_sampler  # noqa: E402
from test.policies.small import STATISTICS, observation_batch, prefix_policy, small_policy  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

pytestmark = pytest.mark.usefixtures("pieces_exported_once")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pieces_exported_once: None) -> Path:
    made = tmp_path_factory.mktemp("models") / "teacher"
    export_policy(prefix_policy(), made)
    return made


def student_of(teacher: Teacher) -> DiffusionPolicy:
    """A student with other weights than its teacher's."""
    torch.manual_seed(1)
    sampler = student_sampler(teacher.manifest.sampler, 2)
    network: Any = teacher.manifest.network
    return DiffusionPolicy(load_task("pusht_state"), STATISTICS, network, sampler).eval()


def batch_of(n: int, known: Any = None) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(observation_batch(n), torch.rand((n, 16, 2), generator=generator) * 400 + 50, known)


class AtPlace(Draw):
    """Draws one and the same step of the teacher's path for all samples."""

    place: int

    def integers(self, high: int, n: int, *shape: int) -> Any:
        assert high == SEGMENTS
        return torch.full((n, *shape), self.place)


def draw_at(place: int) -> AtPlace:
    drawn = AtPlace(0, 2, 0)
    object.__setattr__(drawn, "place", place)
    return drawn


def estimates(
    policy: DiffusionPolicy, x: Any, level: int, condition: Any, known: Any, a: float, b: float
) -> Any:
    predicted = policy.unet(x, torch.full((len(x),), level), condition, known)
    return (x * a + predicted * b).clamp(-1, 1)


@pytest.mark.parametrize("place", [0, 4, SEGMENTS - 1])
@pytest.mark.parametrize("n_known", [0, 3])
def test_the_target_is_the_students_own_word_one_step_on_and_at_the_end_the_teachers(
    folder: Path, place: int, n_known: int
) -> None:
    from diffusers import DDIMScheduler

    teacher = Teacher.load(folder)
    student = student_of(teacher)
    known = (torch.arange(16) < n_known).expand(8, 16) if n_known else None
    batch = batch_of(8, known)
    found = teacher.loss(student, batch, draw_at(place)).item()

    # The same by diffusers: noise, and one step of DDIM between two levels of the teacher's path.
    scheduler = DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", set_alpha_to_one=True
    )
    levels = [round(98 * (SEGMENTS - k) / SEGMENTS) for k in range(SEGMENTS)]
    normalizer: Any = teacher.policy.normalizers["action"]
    clean = normalizer.normalize(batch.actions)
    noise = Draw(0, 2, 0).normal(8, 16, 2)

    def given(x: Any) -> Any:
        return x if known is None else torch.where(known.unsqueeze(-1), clean, x)

    with torch.no_grad():
        condition = teacher.policy.encode(batch.observation)
        x = given(scheduler.add_noise(clean, noise, torch.full((8,), levels[place])))
        level = torch.full((8,), levels[place])
        predicted = teacher.policy.unet(x, level, condition, known)
        share = scheduler.alphas_cumprod[levels[place]]
        estimate = ((x - (1 - share).sqrt() * predicted) / share.sqrt()).clamp(-1, 1)
        if place == SEGMENTS - 1:
            target = estimate
        else:
            later = scheduler.alphas_cumprod[levels[place + 1]]
            rest = (x - share.sqrt() * estimate) / (1 - share).sqrt()
            following = given(later.sqrt() * estimate + (1 - later).sqrt() * rest)
            told = student.unet(following, torch.full((8,), levels[place + 1]), condition, known)
            target = told.clamp(-1, 1)
        said = student.unet(x, level, condition, known)
    error = (said - target).square()[:, n_known:]
    assert found == pytest.approx(error.mean().item(), rel=1e-3)


def test_only_the_student_gets_a_gradient(folder: Path) -> None:
    teacher = Teacher.load(folder)
    student = student_of(teacher).train()
    teacher.loss(student, batch_of(4), Draw(0, 2, 0)).backward()
    assert all(p.grad is None for p in teacher.policy.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())


def test_a_model_is_distilled_stopped_gone_on_with_exported_and_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record_circles(tmp_path / "circles.zarr")
    run = tmp_path / "run"
    small = ["training.batch_size=16", "training.eval_episodes=0", "training.warmup_steps=2"]
    arguments = ["distill", str(folder), "--data", str(data), "--out", str(run), "--num-inference-steps", "2"]
    assert main([*arguments, "--steps", "6", *small]) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["distilled_from"] == str(folder)
    assert record["started_from"] == load_manifest(folder).model_id
    assert main(["distill", "--out", str(run), "--resume"]) == 0
    assert main(["export", str(run), str(tmp_path / "fast")]) == 0
    manifest = load_manifest(tmp_path / "fast")
    assert (manifest.sampler.prediction, manifest.sampler.num_inference_steps) == ("sample", 2)
    assert manifest.prefix == "trained", "as the teacher's"
    engine = load_engine(tmp_path / "fast")
    assert engine.name == "native"
    observation = {"keypoint": np.zeros((2, 18), np.float32), "agent_pos": np.zeros((2, 2), np.float32)}
    assert np.isfinite(engine.sample(observation, sampling_noise(0, 0, (16, 2)))).all()


def test_what_cannot_be_distilled_is_refused(folder: Path, tmp_path: Path) -> None:
    other = load_task("pusht_state").model_copy(update={"rate_hz": 5.0})
    with pytest.raises(UserError, match="is for task pusht_state, not for pusht_state as it is here"):
        Teacher.load(folder, other)
    assert main(["distill", "--out", str(tmp_path / "r")]) == 2
    assert (
        main(
            [
                "distill",
                str(folder),
                "--data",
                "x.zarr",
                "--out",
                str(tmp_path / "r"),
                "--num-inference-steps",
                "9",
            ]
        )
        == 2
    )
    assert not (tmp_path / "r").exists()


def test_the_students_sampler_begins_at_the_top_whatever_the_teachers_does() -> None:
    sampler = student_sampler(SamplerSpec(temperature=0.7), 2)
    assert (sampler.method, sampler.prediction, sampler.temperature) == ("dpmsolver++", "sample", 0.7)
    assert small_policy(**sampler.model_dump()).sampler == sampler
