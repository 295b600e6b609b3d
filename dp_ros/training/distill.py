"""Distillation: a student that draws in 1 to 4 steps learns from a diffusion policy that needs 10.

    noise level      l_0  >  l_1  > ... >  l_6  > ... >  l_12 = clean
    teacher          x_0 ──► x_1 ──► ... ──► x_6 ──► ... ──► x_12      its own path, DDIM steps from pure noise
    student (of 2)   x_0 ───────────────────► x_6 ───────────► x_12    must arrive where the teacher does

Every point of a segment of a path belongs to the same end: the objective of multistep consistency models (Heek et al.,
2024, arXiv 2403.06807; with one segment, Song et al., 2023, arXiv 2303.01469, which Consistency Policy, Prasad et al.,
2024, arXiv 2405.07503, brought to robots), on those points alone that the student will meet, and with the end of the
teacher's whole way as the target. The student's own estimate one step on, the usual target, costs less and is wrong
until the student is right: after 8,000 steps of it the student of the PushT policy solved nothing. Paths begin as
draws do, at noise of the sampler's temperature, so of the data it takes what was observed, and the actions for
prefixes. The student begins as the teacher, of which it keeps what is predicted, too: where all it has to learn are
longer strides, the first step of training is already a fair policy. What comes of it is a model folder like any other,
sampled by DPM-Solver++, whose first and last steps are those of DDIM. Easy to get wrong: a prefix belongs to both, or
the student forgets how to go on from one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dp_ros.errors import UserError
from dp_ros.inference.manifest import Manifest, load_manifest
from dp_ros.inference.sampler import DenoisingStep, SamplerSpec, denoising_steps, signal_shares
from dp_ros.inference.torch import load_policy
from dp_ros.policies.diffusion import DiffusionPolicy
from dp_ros.policies.policy import Batch, Draw, Policy
from dp_ros.task import TaskSpec

#: Of the predicted noise in the clean actions where paths begin, which makes its error as many times as large. DDIM
#: with 10 of 100 steps begins with 7.08.
LARGEST_FACTOR = 7.1
#: Steps of the teacher's path: a multiple of every number of steps that a student may have.
PATH_STEPS = 12


def student_sampler(teacher: SamplerSpec, steps: int) -> SamplerSpec:
    """How the student of a teacher with this sampler draws, in so many steps."""
    changed = {"method": "dpmsolver++", "num_inference_steps": steps, "top_level": top_level(teacher)}
    return SamplerSpec.model_validate({**teacher.model_dump(), **changed, "warm_start": 0.0})


def top_level(sampler: SamplerSpec) -> int:
    """Where paths begin: the highest level at which what the network predicts still tells the clean actions."""
    shares = signal_shares(sampler)
    return max(level for level, share in enumerate(shares) if (1 - share) / share <= LARGEST_FACTOR**2)


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
            UserError: if it cannot be used, is no diffusion policy with global or local conditioning, has too few noise
                levels, or is of another task than `task`.
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
        if (levels := top_level(policy.sampler)) < 2 * PATH_STEPS:
            raise UserError(
                f"model {folder}: train_steps {policy.sampler.train_steps} leave {levels} noise levels for a path of "
                f"{PATH_STEPS} steps, which needs {2 * PATH_STEPS}; distil a model that was trained with more"
            )
        return cls(folder, manifest, policy.eval().requires_grad_(False))

    def loss(self, student: Policy, batch: Batch, draw: Draw) -> Tensor:
        """Mean squared error of the student's clean actions along its way, against those that lead where it should.

        Each step begins where the student's last one ended, so that a step learns to mend what those before left over.
        """
        assert isinstance(student, DiffusionPolicy)
        device = batch.actions.device
        noise = draw.normal(len(batch), *self.policy.trajectory_shape).to(device)
        known = None if batch.known is None else batch.known.to(device)
        normalizer = self.policy.normalizers["action"]
        clean: Tensor = normalizer.normalize(batch.actions)  # type: ignore[operator]

        def given(x: Tensor) -> Tensor:
            return x if known is None else torch.where(known.unsqueeze(-1), clean, x)

        x = given(noise * self.policy.sampler.temperature)
        path = self._path(batch, x, known, given)
        steps = denoising_steps(student.sampler)
        observed = student.encode(batch.observation)
        losses, last = [], torch.zeros_like(x)
        for k, step in enumerate(steps):
            end = path[(k + 1) * PATH_STEPS // len(steps)]
            target = (end - x * step.keep + last * step.momentum) / (step.towards + step.momentum)
            said = x * step.clean_x + student.unet(x, _levels(step, x), observed, known) * step.clean_p
            error = (said - target.clamp(-1.0, 1.0)).square()
            losses.append(error if known is None else error[~known.unsqueeze(-1).expand_as(error)])
            found = said.detach().clamp(-1.0, 1.0)
            x = given(found * step.towards + x * step.keep + (found - last) * step.momentum)
            last = found
        return torch.stack([loss.mean() for loss in losses]).mean()

    @torch.no_grad()
    def _path(
        self, batch: Batch, x: Tensor, known: Tensor | None, given: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """The teacher's way from `x`, PATH_STEPS + 1 points (B, horizon, action_dim), the clean actions last."""
        condition, points = self.policy.encode(batch.observation), [x]
        for step in denoising_steps(student_sampler(self.policy.sampler, PATH_STEPS)):
            predicted = self.policy.unet(x, _levels(step, x), condition, known)
            found = (x * step.clean_x + predicted * step.clean_p).clamp(-1.0, 1.0)
            x = given(found * step.towards + x * step.keep)
            points.append(x)
        return points


def _levels(step: DenoisingStep, x: Tensor) -> Tensor:
    return torch.full((len(x),), step.level, device=x.device)
