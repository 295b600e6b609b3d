from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from dp_ros.policies.time_major import conv_norm_mish  # noqa: E402
from dp_ros.policies.unet1d import ConditionalUnet1d, ConvNormMish  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n_steps", "kernel_size"), [(1, 5), (4, 5), (5, 3), (16, 5), (7, 1), (16, 7)])
def test_a_convolution_is_that_of_torch(n_steps: int, kernel_size: int) -> None:
    torch.manual_seed(n_steps)
    layer = ConvNormMish(6, 8, kernel_size, 4).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn((3, 6, n_steps), dtype=torch.float64, requires_grad=True)
    wanted = layer(x)
    weights = torch.randn_like(wanted)
    leaves = [x, *layer.parameters()]
    wanted_gradients = torch.autograd.grad((wanted * weights).sum(), leaves)
    found = conv_norm_mish(layer, x.permute(2, 0, 1)).permute(1, 2, 0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    for mine, torchs in zip(
        torch.autograd.grad((found * weights).sum(), leaves), wanted_gradients, strict=True
    ):
        torch.testing.assert_close(mine, torchs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("widths", "horizon", "mask"), [((8,), 5, False), ((8, 16), 6, True), ((16, 8, 24), 16, True)]
)
def test_the_network_is_the_same_with_its_gradients(
    widths: tuple[int, ...], horizon: int, mask: bool
) -> None:
    torch.manual_seed(0)
    fast = ConditionalUnet1d(2, 5, widths=widths, step_dim=16, groups=4, mask_channel=mask)
    plain = copy.deepcopy(fast)
    plain.fast_training = False
    actions, observation = torch.randn((3, horizon, 2)), torch.randn((3, 5))
    known = torch.rand((3, horizon)) < 0.3 if mask else None
    predictions = [net(actions, torch.tensor([3, 50, 99]), observation, known) for net in (fast, plain)]
    torch.testing.assert_close(*predictions, rtol=1e-4, atol=1e-5)
    for prediction in predictions:
        (prediction - actions).square().mean().backward()
    for (name, mine), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_large_and_small_values_have_finite_gradients() -> None:
    layer = ConvNormMish(2, 4, 3, 2)
    torch.nn.init.constant_(layer[1].weight, 100.0)
    x = torch.randn((4, 2, 2)).mul(1e4).requires_grad_()
    wanted = layer(x.permute(1, 2, 0)).permute(2, 0, 1)
    found = conv_norm_mish(layer, x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)
    assert torch.isfinite(torch.autograd.grad(found.sum(), x)[0]).all()
    assert torch.isfinite(conv_norm_mish(layer, torch.zeros((4, 2, 2)))).all()


def test_inference_runs_the_network_as_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported graph must hold convolutions, not what they are trained with."""
    net = ConditionalUnet1d(2, 5, widths=(8,), step_dim=16, groups=4)
    monkeypatch.setattr("dp_ros.policies.time_major.denoise", lambda *_: pytest.fail("not in inference"))
    arguments = torch.randn((1, 4, 2)), torch.tensor([7]), torch.randn((1, 5))
    with torch.no_grad():
        net(*arguments)
    net.eval()(*arguments)
