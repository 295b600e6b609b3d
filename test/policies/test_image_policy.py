from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.inference.sampler import SamplerSpec  # noqa: E402
from dp_ros.policies.build import build_policy  # noqa: E402
from dp_ros.policies.diffusion import DiffusionPolicy  # noqa: E402
from dp_ros.policies.policy import Batch, Draw  # noqa: E402
from dp_ros.policies.specs import UnetSpec  # noqa: E402
from dp_ros.task import load_task  # noqa: E402
from test.policies.small import STATISTICS, observation_batch, small_policy  # noqa: E402
from test.policies.small_image import NETWORK, RANGES, picture_batch, small_image_policy  # noqa: E402

ACTIONS = torch.linspace(50, 450, 4 * 16 * 2).view(4, 16, 2)


def test_a_kind_leads_to_its_policy() -> None:
    policy = build_policy(load_task("pusht_image"), RANGES, NETWORK, SamplerSpec())
    assert isinstance(policy, DiffusionPolicy)
    assert policy.network.kind == "unet1d"


def test_pictures_and_vectors_are_encoded_in_the_tasks_order() -> None:
    policy, observation = small_image_policy(), picture_batch(2)
    encoded = policy.encode(observation).view(2, 2, 8)
    moved = policy.encode({**observation, "agent_pos": observation["agent_pos"] + 1}).view(2, 2, 8)
    assert torch.equal(encoded[..., :6], moved[..., :6])
    assert (encoded[..., 6:] != moved[..., 6:]).all()


def test_crops_are_random_in_training_only_and_decided_by_the_draw() -> None:
    policy, batch = small_image_policy(), Batch(picture_batch(4), ACTIONS)
    places = []
    frames = policy._frames

    def watched(observation: object, given: object = None, n: int | None = None) -> dict[str, torch.Tensor]:
        places.append(given)
        return frames(observation, given, n)  # type: ignore[arg-type]

    policy._frames = watched  # type: ignore[method-assign, assignment]
    policy.loss(batch, Draw(0, 2, 0))
    policy.train()
    first, again, other = (policy.loss(batch, Draw(0, 2, step)).item() for step in (0, 0, 1))
    assert first == again != other
    assert places[0] is None
    assert places[1]["image"].shape == (4, 2)
    assert torch.equal(places[1]["image"], places[2]["image"])
    assert not torch.equal(places[1]["image"], places[3]["image"])


def test_a_batch_in_parts_is_cropped_as_the_whole() -> None:
    policy = small_image_policy().train()
    observation = picture_batch(4)
    whole = policy.loss(Batch(observation, ACTIONS), Draw(0, 2, 0))
    parts = [
        policy.loss(
            Batch({key: value[rows] for key, value in observation.items()}, ACTIONS[rows]),
            Draw(0, 2, 0, rows.start, 4),
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(0.25 * parts[0] + 0.75 * parts[1], whole)


def test_the_loss_reaches_every_weight() -> None:
    policy = small_image_policy().train()
    policy.loss(Batch(picture_batch(4), ACTIONS), Draw(0, 2, 0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def test_vectors_alone_are_treated_as_by_the_older_kind() -> None:
    older = small_policy()
    network = NETWORK.model_copy(update={"vision": None})
    policy = DiffusionPolicy(load_task("pusht_state"), STATISTICS, network, SamplerSpec()).eval()
    policy.load_state_dict(older.state_dict())
    noise = torch.randn((2, 16, 2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.sample(observation_batch(2), noise), older.sample(observation_batch(2), noise))


def test_pictures_without_vision_and_vision_without_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="image is an image, and this unet1d network has no vision"):
        DiffusionPolicy(load_task("pusht_image"), RANGES, UnetSpec(), SamplerSpec())
    with pytest.raises(UserError, match="observes no image, so network.vision would have no effect"):
        DiffusionPolicy(load_task("pusht_state"), STATISTICS, NETWORK, SamplerSpec())
