"""The picture encoder as a CPU trains it is the encoder, with the same gradients, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dp_ros.policies import channels_last  # noqa: E402
from dp_ros.policies.norm_relu import NormRelu  # noqa: E402
from dp_ros.policies.specs import VisionSpec  # noqa: E402
from dp_ros.policies.training_library import compiled  # noqa: E402
from dp_ros.policies.vision import PictureEncoder  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert compiled(NormRelu) is not None, "CMakeLists.txt builds it; `make setup` does that"
    if request.param == "torch":
        monkeypatch.setattr(channels_last, "compiled", lambda passes: None)
    return str(request.param)


def features_and_gradients(encoder: PictureEncoder, *given: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad(set_to_none=True)
    found = encoder(*given)
    (found * torch.linspace(-1.0, 1.0, found.numel()).view_as(found).to(found.dtype)).sum().backward()
    named = {name: each.grad.double() for name, each in encoder.named_parameters() if each.grad is not None}
    return {"features": found.detach().double(), **named}


@pytest.mark.parametrize(("channels", "groups"), [(16, 2), (12, 3), (7, 1), (40, 5)])
@pytest.mark.parametrize("middle", [0.0, 30.0])
def test_norm_and_relu_are_those_of_torch(way: str, channels: int, groups: int, middle: float) -> None:
    torch.manual_seed(channels)
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    y = middle + torch.randn((3, channels, 11, 13))  # more places than are summed at a time
    weights = torch.randn_like(y)
    exact = y.double().requires_grad_()
    gamma, beta = (each.detach().double().requires_grad_() for each in (norm.weight, norm.bias))
    wanted = F.relu(F.group_norm(exact, groups, gamma, beta, norm.eps))
    gradients = torch.autograd.grad((wanted * weights).sum(), [exact, gamma, beta])
    y.requires_grad_()
    found = channels_last.norm_relu(norm, y)
    assert (type(found.grad_fn).__name__ == "_NormReluBackward") == (way == "compiled")
    mine = torch.autograd.grad((found * weights).sum(), [y, norm.weight, norm.bias])
    tolerance = 1e-5 * (1.0 + middle)
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    for one, other in zip(mine, gradients, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("cropped", [False, True])
def test_training_the_encoder_on_a_cpu_has_the_same_gradients(way: str, cropped: bool) -> None:
    torch.manual_seed(0)
    encoder = PictureEncoder(3, VisionSpec(channels=(8, 16), keypoints=4, features=6, hidden=5))
    n = 35  # more than go through the layers together
    pictures = torch.rand((n, 20, 24, 3)).mul_(2.0).sub_(1.0).permute(0, 3, 1, 2)
    rows, columns = (torch.linspace(-1.0, 1.0, size).expand(1, -1) for size in (20, 24))
    if cropped:  # each somewhere else
        rows, columns = (each + 0.1 * torch.randn((n, 1)) for each in (rows, columns))
    given = (pictures, rows, columns)
    fast = features_and_gradients(encoder, *given)
    encoder.fast_training = False
    plain = features_and_gradients(encoder, *given)
    exact = features_and_gradients(encoder.double(), *(each.double() for each in given))
    assert not torch.equal(fast["body.0.weight"], plain["body.0.weight"]), "another way"
    for name, wanted in exact.items():
        off = (fast[name] - wanted).abs().max().item()
        allowed = (plain[name] - wanted).abs().max().item()
        assert off <= 10 * allowed + 1e-5 * wanted.abs().max().item() + 1e-6, name


def test_it_is_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    run = channels_last.run
    monkeypatch.setattr(channels_last, "run", lambda layers, x: (ran.append(len(x)), run(layers, x))[1])
    encoder = PictureEncoder(3, VisionSpec(channels=(8, 8), keypoints=4, features=6))
    given = (torch.rand((40, 3, 16, 16)), torch.zeros((1, 16)), torch.zeros((1, 16)))
    encoder(*given)
    assert ran == [32, 8]
    encoder.eval()(*given)
    with torch.no_grad():
        encoder.train()(*given)
    assert ran == [32, 8], "not without gradients"


def test_without_a_library_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, y = nn.GroupNorm(2, 16), torch.randn((2, 16, 5, 5))
    compiled.cache_clear()
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    assert compiled(NormRelu) is None
    without = channels_last.norm_relu(norm, y)
    compiled.cache_clear()
    assert torch.equal(without, F.relu(norm(y)))
