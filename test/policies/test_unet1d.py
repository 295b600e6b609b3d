from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from dp_ros.errors import UserError  # noqa: E402
from dp_ros.policies.unet1d import ConditionalUnet1d  # noqa: E402


def unet(**options: object) -> ConditionalUnet1d:
    torch.manual_seed(0)
    return ConditionalUnet1d(2, 5, **{"widths": (8, 16), "step_dim": 16, "groups": 4, **options}).eval()


def inputs(n: int = 3, horizon: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    actions = torch.randn((n, horizon, 2), generator=generator)
    step = torch.randint(100, (n,), generator=generator)
    return actions, step, torch.randn((n, 5), generator=generator)


@pytest.mark.parametrize(("widths", "horizon"), [((8,), 5), ((8, 16), 6), ((8, 16, 24), 16)])
def test_the_prediction_has_the_shape_of_the_actions(widths: tuple[int, ...], horizon: int) -> None:
    actions, step, observation = inputs(horizon=horizon)
    assert unet(widths=widths)(actions, step, observation).shape == actions.shape


def test_the_default_network_has_the_number_of_parameters_that_the_readme_quotes() -> None:
    n = sum(p.numel() for p in ConditionalUnet1d(2, 40).parameters())
    assert n == 1_393_314


def test_step_and_observation_both_change_the_prediction() -> None:
    net, (actions, step, observation) = unet(), inputs()
    base = net(actions, step, observation)
    assert (net(actions, (step + 20) % 100, observation) - base).abs().max() > 1e-3
    assert (net(actions, step, observation + 1) - base).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_see_each_other() -> None:
    net, (actions, step, observation) = unet(), inputs()
    alone = torch.cat([net(actions[i : i + 1], step[i : i + 1], observation[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(actions, step, observation), alone, rtol=1e-4, atol=1e-5)


def test_the_two_halves_of_film_add_up_to_the_whole() -> None:
    net, (actions, step, observation) = unet(), inputs()
    film = net.condition_of_step(step) + net.condition_of_observation(observation)
    torch.testing.assert_close(
        net.denoise(actions, film), net(actions, step, observation), rtol=1e-4, atol=1e-5
    )


def test_the_mask_channel_says_which_actions_are_known() -> None:
    net, (actions, step, observation) = unet(mask_channel=True), inputs()
    known = torch.zeros((3, 16))
    base = net(actions, step, observation)
    assert base.shape == actions.shape
    assert torch.equal(base, net(actions, step, observation, known)), "none known unless told so"
    known[1, :4] = 1
    changed = (net(actions, step, observation, known) != base).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]
    assert unet(mask_channel=True).down[0].first.first[0].weight.shape[1] == 3


def test_every_parameter_gets_a_gradient() -> None:
    net, (actions, step, observation) = unet().train(), inputs()
    net(actions, step, observation).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"widths: got \[\]"),
        ({"widths": (8, 10)}, r"widths: got \[8, 10\], expected at least one multiple of groups = 4"),
        ({"kernel_size": 4}, "kernel_size: got 4, expected an odd number"),
        ({"step_dim": 7}, "step_dim: got 7, expected an even number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unet(**options)
