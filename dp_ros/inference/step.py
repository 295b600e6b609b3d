"""One denoising step of a policy as a torch module, with all that differs between steps as its inputs.

What the ONNX graph and the CUDA graph are made of: both are recorded once and then hold no Python. Easy to get wrong:
this is the arithmetic of DDIM, DDPM and DPM-Solver++ written again, beside the schedulers of diffusers that
`DiffusionPolicy.sample` runs; whoever uses it must hold it against those.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.policies.diffusion import DiffusionPolicy


class ObservationHalf(nn.Module):
    """Streams (1, n_obs_steps, *shape), in the task's order, to the observation's half of FiLM (1, F).

    Of cameras the streams are the features (1, n_obs_steps, features) of their pictures.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *streams: Tensor) -> Tensor:
        """See the class."""
        return self.policy.unet.condition_of_observation(self.policy.condition_of(streams))


class OneStep(nn.Module):
    """One denoising step, as in `DiffusionPolicy.sample`; `coefficients` are those of a `DenoisingStep`.

    With inpainting x is (1, T, A + D), the noise of a step likewise.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self,
        x: Tensor,
        observation_film: Tensor,
        step_film: Tensor,
        coefficients: Tensor,
        planned: Tensor,
        weights: Tensor,
        *further: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map noisy actions (1, T, A) to less noisy ones.

        `further` is the mask of known actions (1, T) where the network takes one, then the step's noise (1, T, A)
        where the sampler is DDPM, or the last estimate of the clean actions (1, T, A) where it is DPM-Solver++, which
        also gives that of this step.
        """
        rest = list(further)
        (
            clean_x,
            clean_p,
            noise_x,
            noise_p,
            next_clean,
            next_noise,
            towards,
            keep,
            fresh,
            noise_share,
            momentum,
        ) = coefficients.unbind()
        known = rest.pop(0) if self.policy.unet.mask_channel else None
        if self.policy.inpainted_dim:
            planned = F.pad(planned, (0, self.policy.inpainted_dim))
        if known is not None:
            x = torch.where(known.unsqueeze(-1) > 0.5, planned, x)
        p = self.policy.unet.denoise(x, observation_film + step_film, known)
        clean = x * clean_x + p * clean_p
        if self.policy.sampler.clip_sample:
            clean = clean.clamp(-1.0, 1.0)
        kept = x * keep
        if self.policy.sampler.method == "ddim":
            noise = x * noise_x + p * noise_p
            following = clean * next_clean + noise * next_noise
        else:
            following = clean * towards + kept
            if self.policy.sampler.method == "dpmsolver++":
                following = following + (clean - rest.pop(0)) * momentum
        gain = self.policy.prefix_gain(weights, noise_share)
        following = following * (1.0 - gain) + (planned * towards + kept) * gain
        if self.policy.sampler.method == "dpmsolver++":
            return following, clean
        return following + rest.pop(0) * fresh if rest else following
