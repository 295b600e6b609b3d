from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from dp_ros.inference import export  # noqa: E402
from dp_ros.inference.manifest import load_manifest  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.build import build_policy  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.policies.specs import TransformerSpec, VisionSpec  # noqa: E402
from dp_ros.policies.transformer import ActionTransformer  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.small import STATISTICS, observation_batch  # noqa: E402
from test.policies.small_image import RANGES, picture_batch  # noqa: E402

NOISE = torch.randn((3, 16, 2), generator=torch.Generator().manual_seed(0))
ACTIONS = torch.linspace(50, 450, 3 * 16 * 2).view(3, 16, 2)


def small_transformer(prefix_steps: int = 0, **sampler: int) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = TransformerSpec(width=16, layers=2, heads=2, prefix_steps=prefix_steps)
    policy = build_policy(load_task("pusht_state"), STATISTICS, network, SamplerSpec(**sampler))
    assert isinstance(policy, DiffusionPolicy)
    return policy.eval()


def changed(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Steps at which two predictions (B, T, A) differ."""
    return (before != after).any(-1).any(0).nonzero().flatten().tolist()


@pytest.fixture
def network() -> ActionTransformer:
    torch.manual_seed(0)
    return ActionTransformer(2, 4, 8, 3, width=16, layers=2, heads=2).eval()


def test_an_action_sees_itself_and_earlier_ones_only(network: ActionTransformer) -> None:
    actions, step, observation = torch.randn((1, 8, 2)), torch.tensor([3]), torch.randn((1, 12))
    before = network(actions, step, observation)
    actions[0, 5] += 1
    assert changed(before, network(actions, step, observation)) == [5, 6, 7]


def test_an_action_sees_the_noise_level_and_observations_up_to_its_step(network: ActionTransformer) -> None:
    actions, step, observation = torch.randn((1, 8, 2)), torch.tensor([3]), torch.randn((1, 12))
    before = network(actions, step, observation)
    assert changed(before, network(actions, step + 1, observation)) == list(range(8))
    observation[0, 8:] += 1  # the third observed step
    assert changed(before, network(actions, step, observation)) == [2, 3, 4, 5, 6, 7]


def test_norms_biases_and_positions_do_not_decay() -> None:
    policy = small_transformer()
    decayed, others = policy.parameter_groups(0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(list(policy.parameters()))
    kept = {id(p) for p in others["params"]}
    names = [name for name, p in policy.named_parameters() if id(p) in kept]
    assert {"unet.action_position", "unet.memory_position", "unet.layers.0.norms.0.weight"} <= set(names)
    assert not [name for name in names if name.endswith(("query.weight", "action_in.weight"))]


def test_the_loss_reaches_every_weight() -> None:
    policy = small_transformer(prefix_steps=4).train()
    known = torch.arange(16).expand(3, 16) < 3
    policy.loss(Batch(observation_batch(3), ACTIONS, known), Draw(0, 2, 0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_a_mask_channel_is_added_to_weights_without_one() -> None:
    plain, masked = small_transformer(), small_transformer(prefix_steps=4)
    masked.start_from(plain.state_dict())
    observation = observation_batch(3)
    torch.testing.assert_close(masked.sample(observation, NOISE), plain.sample(observation, NOISE))


def test_the_graph_draws_what_torch_draws_with_and_without_a_prefix(tmp_path: Path) -> None:
    """`export_policy` compares both and writes nothing where they differ."""
    policy = small_transformer(prefix_steps=4, num_inference_steps=3)
    export.export_policy(policy, tmp_path / "model")
    manifest = load_manifest(tmp_path / "model")
    assert manifest.network == policy.network
    assert manifest.prefix == "trained"


def test_a_transformer_learns_from_pictures_and_looks_at_them() -> None:
    torch.manual_seed(0)
    vision = VisionSpec(channels=(8, 8), keypoints=4, features=6)
    network = TransformerSpec(width=16, layers=1, heads=2, vision=vision)
    policy = build_policy(
        load_task("pusht_image"), RANGES, network, SamplerSpec(num_inference_steps=2)
    ).train()
    optimizer = torch.optim.AdamW(policy.parameter_groups(1e-6), lr=1e-2)
    batch, before = Batch(picture_batch(3), ACTIONS), {k: v.clone() for k, v in policy.state_dict().items()}
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = policy.loss(batch, Draw(0, 1, 0))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    moved = [
        k for k, v in policy.state_dict().items() if k.startswith("vision.") and not torch.equal(v, before[k])
    ]
    assert moved, "the encoder learns, too"
    policy.eval()
    drawn = [policy.sample(picture_batch(3, seed) | {"agent_pos": ACTIONS[:, :2]}, NOISE) for seed in (0, 1)]
    assert drawn[0].shape == (3, 16, 2)
    assert not torch.equal(*drawn)
