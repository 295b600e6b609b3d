"""Consistency distillation: a student that draws in 1 to 4 steps learns from a diffusion policy that needs 10.

    noise level   l_0 > l_1 > ... > l_K = clean
    teacher         x_0 ──DDIM step──► x_1                  one step along its own path
    student       clean(x_0, l_0)  ==  clean(x_1, l_1)      must say the same of both; at the last step, as the teacher

Consistency models (Song et al., 2023, arXiv 2303.01469), which Consistency Policy (Prasad et al., 2024, arXiv
2405.07503) brought to robots. The student begins with the teacher's weights and predicts clean actions, because what it
says at the highest level is all there is with one step. Its own estimate for x_1, without a gradient, is the target
(Song and Dhariwal, 2023, arXiv 2310.14189, find no averaged copy is needed). What comes of it is a model folder like
any other, sampled by DPM-Solver++, whose first and last steps are those of DDIM and which begins at the highest level.
Easy to get wrong: a prefix belongs to both, or the student forgets how to go on from one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.inference.manifest import Manifest, load_manifest
from dp_ros.inference.sampler import SamplerSpec, denoising_steps, signal_shares
from dp_ros.inference.torch import load_policy
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.policies.policy import Batch, Draw, Policy
from dp_ros.task import TaskSpec

#: Steps of the teacher's path.
SEGMENTS = 10


def student_sampler(teacher: SamplerSpec, steps: int) -> SamplerSpec:
    """How the student of a teacher with this sampler draws, in so many steps."""
    changed = {
        "prediction": "sample",
        "method": "dpmsolver++",
        "num_inference_steps": steps,
        "clip_sample": True,
    }
    return SamplerSpec.model_validate({**teacher.model_dump(), **changed})


@dataclass(frozen=True)
class Teacher:
    """A diffusion policy that another one is to be distilled from.

    Attributes:
        folder: its model folder.
        manifest: its manifest.
        policy: in evaluation mode, never changed.
    """

    folder: Path
    manifest: Manifest
    policy: DiffusionPolicy

    @classmethod
    def load(cls, folder: str | Path, task: TaskSpec | None = None) -> Teacher:
        """Load a model folder.

        Raises:
            UserError: if it cannot be used, is no diffusion policy with global or local conditioning, or of another
                task than `task`.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        policy = load_policy(folder, manifest)
        if not isinstance(policy, DiffusionPolicy) or policy.inpainted_dim:
            kind = manifest.network.kind if not isinstance(policy, DiffusionPolicy) else "inpainting"
            raise UserError(
                f"model {folder}: {kind} cannot be distilled; give a diffusion policy that is conditioned"
            )
        if task is not None and task.digest() != policy.task.digest():
            raise UserError(
                f"model {folder}: is for task {policy.task.name}, not for {task.name} as it is here"
            )
        return cls(folder, manifest, policy.eval().requires_grad_(False))

    def loss(self, student: Policy, batch: Batch, draw: Draw) -> Tensor:
        """Mean squared difference between what `student` says of two neighbours on the teacher's path."""
        assert isinstance(student, DiffusionPolicy)
        teacher = self.policy
        n, device = len(batch), batch.actions.device
        noise = draw.normal(n, *teacher.trajectory_shape).to(device)
        place = draw.integers(SEGMENTS, n).to(device)
        path = _Path.of(teacher.sampler, device)
        clean: Tensor = teacher.normalizers["action"].normalize(batch.actions)  # type: ignore[operator]
        known = None if batch.known is None else batch.known.to(device)

        def given(x: Tensor) -> Tensor:
            return x if known is None else torch.where(known.unsqueeze(-1), clean, x)

        observed = student.encode(batch.observation)
        x = given(path.signal[place] * clean + path.noise[place] * noise)
        with torch.no_grad():
            condition = teacher.encode(batch.observation)
            predicted = teacher.unet(x, path.level[place], condition, known)
            found = (x * path.clean_x[place] + predicted * path.clean_p[place]).clamp(-1.0, 1.0)
            following = given(found * path.towards[place] + x * path.keep[place])
            later = (place + 1).clamp(max=SEGMENTS - 1)
            told = student.unet(following, path.level[later], observed, known)
            target = torch.where((place == SEGMENTS - 1).view(-1, 1, 1), found, told.clamp(-1.0, 1.0))
        said = student.unet(x, path.level[place], observed, known)
        error = (said - target).square()
        return error.mean() if known is None else error[~known.unsqueeze(-1).expand_as(error)].mean()


@dataclass(frozen=True)
class _Path:
    """Coefficients (SEGMENTS, 1, 1) and levels (SEGMENTS,) of the teacher's steps."""

    level: Tensor
    signal: Tensor
    noise: Tensor
    clean_x: Tensor
    clean_p: Tensor
    towards: Tensor
    keep: Tensor

    @classmethod
    def of(cls, sampler: SamplerSpec, device: torch.device) -> _Path:
        spaced = sampler.model_copy(update={"method": "dpmsolver++", "num_inference_steps": SEGMENTS})
        steps = denoising_steps(spaced)
        shares = signal_shares(sampler)[[step.level for step in steps]]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)

        def of_steps(name: str) -> Tensor:
            return column([getattr(step, name) for step in steps])

        return cls(
            torch.tensor([step.level for step in steps], device=device),
            column(list(shares**0.5)),
            column(list((1 - shares) ** 0.5)),
            of_steps("clean_x"),
            of_steps("clean_p"),
            of_steps("towards"),
            of_steps("keep"),
        )
