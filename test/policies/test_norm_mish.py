"""The compiled passes are those of torch, forwards and backwards, and do without a library where there is none."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from dp_ros.policies import time_major  # noqa: E402
from dp_ros.policies.norm_mish import NormMish  # noqa: E402
from dp_ros.policies.training_library import compiled  # noqa: E402
from dp_ros.policies.unet1d import ConvNormMish  # noqa: E402

WAYS = ["compiled", "torch"]


def passes(way: str) -> tuple[object, object]:
    if way == "torch":
        return time_major.norm_mish, time_major.norm_mish_backward
    found = compiled(NormMish)
    assert found is not None, "CMakeLists.txt builds it; `make setup` does that"
    return found.forward, found.backward


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (12, 4), (7, 1), (40, 40)])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_norm_and_mish_are_those_of_torch(way: str, channels: int, groups: int, size: float) -> None:
    torch.manual_seed(channels)
    forward, backward = passes(way)
    y = size * torch.randn((5, 3, channels))
    bias, gamma, beta = (torch.randn(channels) for _ in range(3))
    gamma *= size  # outputs of the norm from far below zero to beyond where mish is linear
    leaves = [tensor.double().requires_grad_() for tensor in (y, bias, gamma, beta)]
    normed = F.group_norm((leaves[0] + leaves[1]).permute(1, 2, 0), groups, leaves[2], leaves[3], 1e-5)
    wanted = F.mish(normed).permute(2, 0, 1)
    weights = torch.randn_like(y)
    gradients = torch.autograd.grad((wanted * weights).sum(), leaves)
    result, slope, mean, rstd = forward(y, bias, gamma, beta, groups, 1e-5)  # type: ignore[operator]
    torch.testing.assert_close(result.double(), wanted, rtol=1e-4, atol=1e-4 * size)
    strided = weights.transpose(0, 1).contiguous().transpose(0, 1)
    found = backward(strided, slope, y, mean, rstd, gamma)  # type: ignore[operator]
    for mine, torchs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine.double(), torchs, rtol=1e-3, atol=2e-4 * size)


def test_without_a_library_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = ConvNormMish(6, 16, 5, 4), torch.randn((4, 3, 6))
    with_library = time_major.conv_norm_mish(layer, x)
    compiled.cache_clear()
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    assert compiled(NormMish) is None
    without = time_major.conv_norm_mish(layer, x)
    compiled.cache_clear()
    torch.testing.assert_close(with_library, without, rtol=1e-4, atol=1e-5)
    assert not torch.equal(with_library, without), "another way"
