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
from dp_ros.inference.sampler import SamplerSpec, denoising_steps, sampling_noise  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from dp_ros.training.distill import PATH_STEPS, Teacher, student_sampler  # noqa: E402
from test.policies.small import STATISTICS, observation_batch, prefix_policy, small_policy  # noqa: E402
from test.training.recordings import record_circles  # noqa: E402

pytestmark = pytest.mark.usefixtures("pieces_exported_once")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pieces_exported_once: None) -> Path:
    made = tmp_path_factory.mktemp("models") / "teacher"
    export_policy(prefix_policy(), made)
    return made


def student_of(teacher: Teacher, n_steps: int = 2) -> DiffusionPolicy:
    """A student with other weights than its teacher's."""
    torch.manual_seed(1)
    sampler = student_sampler(teacher.manifest.sampler, n_steps)
    network: Any = teacher.manifest.network
    return DiffusionPolicy(load_task("pusht_state"), STATISTICS, network, sampler).eval()


def batch_of(n: int, known: Any = None) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(observation_batch(n), torch.rand((n, 16, 2), generator=generator) * 400 + 50, known)


def way_of_the_teacher(teacher: Teacher, batch: Batch) -> list[Any]:
    """PATH_STEPS + 1 points of it, by the shares of diffusers, from the level where DDIM with 10 steps begins."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    levels = [round(90 * (PATH_STEPS - k) / PATH_STEPS) for k in range(PATH_STEPS)]
    shares = [scheduler.alphas_cumprod[level] for level in levels] + [torch.tensor(1.0)]
    normalizer: Any = teacher.policy.normalizers["action"]
    clean = normalizer.normalize(batch.actions)

    def given(x: Any) -> Any:
        return x if batch.known is None else torch.where(batch.known.unsqueeze(-1), clean, x)

    points = [given(Draw(0, 2, 0).normal(len(batch), 16, 2) * teacher.policy.sampler.temperature)]
    with torch.no_grad():
        condition = teacher.policy.encode(batch.observation)
        for k, level in enumerate(levels):
            x, share, later = points[-1], shares[k], shares[k + 1]
            predicted = teacher.policy.unet(x, torch.full((len(x),), level), condition, batch.known)
            estimate = ((x - (1 - share).sqrt() * predicted) / share.sqrt()).clamp(-1, 1)
            rest = (x - share.sqrt() * estimate) / (1 - share).sqrt()
            points.append(given(later.sqrt() * estimate + (1 - later).sqrt() * rest))
    return points


class Saying(torch.nn.Module):
    """In place of a student's network: says what makes the estimate of the clean actions `wanted` at each level."""

    mask_channel = True

    def __init__(self, steps: list[Any], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = {step.level: step for step in steps}
        self.wanted = torch.nn.ParameterDict({str(step.level): torch.zeros(shape) for step in steps})

    def forward(self, x: Any, level: Any, condition: Any, known: Any = None) -> Any:
        step = self.steps[int(level[0])]
        return (self.wanted[str(step.level)] - x * step.clean_x) / step.clean_p


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4])
@pytest.mark.parametrize("n_known", [0, 3])
def test_a_student_that_says_what_the_loss_asks_for_arrives_where_the_teacher_does(
    folder: Path, n_steps: int, n_known: int
) -> None:
    teacher = Teacher.load(folder)
    batch = batch_of(8, (torch.arange(16) < n_known).expand(8, 16) if n_known else None)
    way = way_of_the_teacher(teacher, batch)
    student = student_of(teacher, n_steps)
    steps = denoising_steps(student.sampler)
    student.unet = network = Saying(steps, (8, 16, 2))
    for (
        _
    ) in steps:  # what a step should say depends on what those before said: they learn one after the other
        loss = teacher.loss(student, batch, Draw(0, 2, 0))
        for said, slope in zip(
            network.wanted.values(), torch.autograd.grad(loss, list(network.wanted.values())), strict=True
        ):
            said.data -= slope * n_steps * (16 - n_known) * 8 * 2 / 2
    assert teacher.loss(student, batch, Draw(0, 2, 0)).item() < 1e-10

    noise = Draw(0, 2, 0).normal(8, 16, 2)
    weights = torch.zeros(8, 16)
    weights[:, :n_known] = 1.0
    drawn = student.sample(batch.observation, noise, prefix=(batch.actions, weights) if n_known else None)
    normalizer: Any = student.normalizers["action"]
    assert normalizer.normalize(drawn) == pytest.approx(way[-1], abs=2e-4)
    if n_steps == 2:
        first = network.wanted[str(steps[0].level)].detach()
        halfway = first * steps[0].towards + way[0] * steps[0].keep
        assert halfway[:, n_known:] == pytest.approx(way[PATH_STEPS // 2][:, n_known:], abs=2e-4)


def test_a_step_is_judged_from_where_the_students_last_one_ended(folder: Path) -> None:
    teacher, batch = Teacher.load(folder), batch_of(8)
    student = student_of(teacher, 2)
    seen: list[Any] = []
    student.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    teacher.loss(student, batch, Draw(0, 2, 0))
    first, second = denoising_steps(student.sampler)
    said = student.unet(seen[0], torch.full((8,), first.level), student.encode(batch.observation), None)
    clean = (seen[0] * first.clean_x + said * first.clean_p).clamp(-1, 1)
    assert second.level < first.level
    assert seen[1] == pytest.approx((clean * first.towards + seen[0] * first.keep).detach(), abs=1e-5)


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
    assert (manifest.sampler.top_level, manifest.sampler.num_inference_steps) == (90, 2)
    assert manifest.prefix == "trained", "as the teacher's"
    engine = load_engine(tmp_path / "fast")
    assert engine.name == "native"
    observation = {"keypoint": np.zeros((2, 18), np.float32), "agent_pos": np.zeros((2, 2), np.float32)}
    assert np.isfinite(engine.sample(observation, sampling_noise(0, 0, (16, 2)))).all()


def test_a_model_with_too_few_noise_levels_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dp_ros.training.distill.PATH_STEPS", 60)
    with pytest.raises(
        UserError, match="train_steps 100 leave 90 noise levels for a path of 60 steps, .* needs 120"
    ):
        Teacher.load(folder)


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


def test_a_student_keeps_what_is_predicted_and_begins_where_that_says_something() -> None:
    sampler = student_sampler(SamplerSpec(temperature=0.7, warm_start=0.5), 2)
    assert (sampler.method, sampler.prediction, sampler.temperature) == ("dpmsolver++", "epsilon", 0.7)
    assert (sampler.top_level, sampler.warm_start) == (90, 0.0)
    assert small_policy(**sampler.model_dump()).sampler == sampler


def test_before_it_has_learnt_a_student_with_all_steps_of_the_path_is_its_teacher(folder: Path) -> None:
    teacher, batch = Teacher.load(folder), batch_of(8)
    student = student_of(teacher, 1)
    student.load_state_dict(teacher.policy.state_dict())
    untaught = teacher.loss(student, batch, Draw(0, 2, 0)).item()
    student.sampler = student_sampler(teacher.manifest.sampler, PATH_STEPS)
    assert teacher.loss(student, batch, Draw(0, 2, 0)).item() < 0.2 * untaught
