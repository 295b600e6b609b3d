"""The picture encoders of the references, written from their documented structure, with their parameter names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_of(channels: int, batch: bool) -> nn.Module:
    if not batch:
        return nn.GroupNorm(channels // 16, channels)
    norm = nn.BatchNorm2d(channels)
    norm.running_mean.normal_(0.0, 0.3)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


class ResidualBlock(nn.Module):
    def __init__(self, a: int, b: int, stride: int, batch: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), norm_of(b, batch)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), norm_of(b, batch)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), norm_of(b, batch))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


def layer_of(a: int, b: int, stride: int, batch: bool) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(a, b, stride, batch), ResidualBlock(b, b, 1, batch))


class ResNet18(nn.Module):
    """With its mean over the picture, without its last layer: 512 features."""

    def __init__(self, batch: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm_of(64, batch)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = layer_of(64, 64, 1, batch), layer_of(64, 128, 2, batch)
        self.layer3, self.layer4 = layer_of(128, 256, 2, batch), layer_of(256, 512, 2, batch)
        # Random norms, so that one that is left out or mixed up is noticed.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)

    def trunk(self) -> nn.Sequential:
        """All of it but the mean, as a sequence that is numbered."""
        return nn.Sequential(*self.children())

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk()(x).mean((2, 3))


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    x, y = np.meshgrid(np.linspace(-1.0, 1.0, width), np.linspace(-1.0, 1.0, height))
    return torch.from_numpy(x).float().reshape(-1), torch.from_numpy(y).float().reshape(-1)


class Points(nn.Module):
    """Spatial softmax: points (B, 2 K), x and y of the first, of the second, and so on."""

    def __init__(self, size: tuple[int, int], n: int, temperature: float | None) -> None:
        super().__init__()
        self.nets = nn.Conv2d(512, n, 1)
        nn.init.normal_(self.nets.weight, 0.0, 0.2)
        x, y = grid(-(-size[0] // 32), -(-size[1] // 32))
        if temperature is None:  # LeRobot's
            self.register_buffer("pos_grid", torch.stack([x, y], 1))
            self.share = 1.0
        else:  # robomimic's
            self.register_buffer("pos_x", x[None])
            self.register_buffer("pos_y", y[None])
            self.register_buffer("temperature", torch.full((1,), temperature))
            self.share = temperature
        self.grid = torch.stack([x, y], 1)

    def forward(self, features: Tensor) -> Tensor:
        maps = (self.nets(features) / self.share).flatten(2).softmax(-1)  # (B, K, cells)
        return (maps @ self.grid).flatten(1)


class LerobotEncoder(nn.Module):
    def __init__(self, size: tuple[int, int], n: int, batch: bool) -> None:
        super().__init__()
        self.backbone = ResNet18(batch).trunk()
        self.pool = Points(size, n, None)
        self.out = nn.Linear(2 * n, 2 * n)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.out(self.pool(self.backbone(x))))


class Nets(nn.Module):
    def __init__(self, nets: nn.Module) -> None:
        super().__init__()
        self.nets = nets

    def forward(self, x: Tensor) -> Tensor:
        return self.nets(x)


class RobomimicEncoder(nn.Module):
    """Its parts are there twice, by name and in a sequence."""

    def __init__(self, size: tuple[int, int], n: int, features: int, batch: bool) -> None:
        super().__init__()
        self.backbone, self.pool = Nets(ResNet18(batch).trunk()), Points(size, n, 0.7)
        self.nets = nn.Sequential(self.backbone, self.pool, nn.Flatten(), nn.Linear(2 * n, features))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.nets(x))


def cropped(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """The middle (N, C, h, w) of pictures (N, C, H, W), as torchvision cuts it."""
    top, left = (round((whole - part) / 2.0) for whole, part in zip(pictures.shape[2:], size, strict=True))
    return pictures[:, :, top : top + size[0], left : left + size[1]]


@torch.no_grad()
def observed(streams: Mapping[str, Tensor]) -> Tensor:
    """Streams (n_obs_steps, F) in this order as the U-Net is told of them, (1, O)."""
    return torch.cat(list(streams.values()), dim=-1).flatten()[None]


def pictures_of(seed: int, n: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def as_shares(pictures: np.ndarray) -> Tensor:
    """Pictures (N, H, W, 3) of bytes as (N, 3, H, W) from 0 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0
