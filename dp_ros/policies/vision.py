"""Encoders of pictures: uint8 in, a few features out, most of which say where in the picture something is.

Both end in a spatial softmax (Levine et al., 2016, arXiv 1504.00702): every map of the last layer becomes the mean
position of what it responds to. `resnet18` is the one of Diffusion Policy (Chi et al., 2023), with group norm, because
averaged weights and batch norm do not go together; `small` has two stages that a CPU can train. Easy to get wrong: a
random crop moves what is seen, but not the world, so positions count from the middle of the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dp_ros.errors import UserError
from dp_ros.policies import channels_last
from dp_ros.policies.normalizer import MinMaxNormalizer, Statistics
from dp_ros.policies.specs import VisionSpec, middle
from dp_ros.task import ObservationSpec

_SMALL_CHANNELS = (16, 32)
_SHARED = "shared"
#: Pictures that training on a CPU takes through the layers together: more do not stay in its caches.
_AT_A_TIME = 32
#: What a network can be given: other encodings have values whose range the type does not tell.
_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")


class VisionEncoder(nn.Module):
    """Pictures of all cameras of a task to features.

    Args:
        cameras: the image streams; their sizes may differ.
        spec: which encoder.
        ranges: {camera: {"min": [...], "max": [...]}}, the values of each channel that become -1 and 1; 0 and 255
            where nothing is said of a camera.

    Raises:
        UserError: if an encoding cannot be used, or cameras of different channels are to share an encoder.
    """

    def __init__(
        self, cameras: Mapping[str, ObservationSpec], spec: VisionSpec, ranges: Statistics | None = None
    ) -> None:
        super().__init__()
        for key, camera in cameras.items():
            if camera.encoding not in _ENCODINGS:
                raise UserError(
                    f"observation {key}: encoding {camera.encoding} cannot be learnt from; expected one of "
                    f"{', '.join(_ENCODINGS)}"
                )
        channels = {key: camera.shape[2] for key, camera in cameras.items()}
        if spec.shared and len(set(channels.values())) > 1:
            raise UserError(
                f"network.vision.shared: cameras have different numbers of channels ({channels}); set it to false"
            )
        self.cameras, self.shared, self.crop_rounds = dict(cameras), spec.shared, spec.crop_rounds
        self.ranges = nn.ModuleDict(
            {key: MinMaxNormalizer(each["min"], each["max"]) for key, each in (ranges or {}).items()}
        )
        names = [_SHARED] if spec.shared else list(cameras)
        self.encoders = nn.ModuleDict(
            {
                name: PictureEncoder(next(iter(channels.values())) if spec.shared else channels[name], spec)
                for name in names
            }
        )

    def forward(self, key: str, pictures: Tensor, place: Tensor | None = None) -> Tensor:
        """Features (B, n_obs_steps, F) of pictures (B, n_obs_steps, H, W, C) uint8 of camera `key`.

        `place` (B, 2), each from 0 to below 1, says where in the range of possible places each sample is cropped,
        from the top and from the left; None: in the middle.
        """
        spec = self.cameras[key]
        pixels, rows, columns = crop(pictures, spec.crop or spec.shape[:2], place, rounds=self.crop_rounds)
        n, n_steps = pixels.shape[:2]
        values = pixels.flatten(0, 1).float()  # (B n_obs_steps, h, w, C)
        values = self.ranges[key].normalize(values) if key in self.ranges else values / 127.5 - 1.0  # type: ignore[operator]
        x = values.permute(0, 3, 1, 2)  # (B n_obs_steps, C, h, w)
        rows, columns = (
            each.repeat_interleave(n_steps, 0) if place is not None else each for each in (rows, columns)
        )
        features: Tensor = self.encoders[_SHARED if self.shared else key](x, rows, columns)
        return features.view(n, n_steps, -1)


class PictureEncoder(nn.Module):
    """Pictures (N, channels, h, w) from -1 to 1 to features (N, F).

    Attributes:
        fast_training: compute as `channels_last` does where that is quicker, which is when training on a CPU.
    """

    fast_training: bool
    maps: nn.Module | None
    hidden: nn.Module | None

    def __init__(self, channels: int, spec: VisionSpec) -> None:
        super().__init__()
        self.has_coordinates = self.fast_training = spec.encoder == "small"
        if spec.encoder == "small":
            first, second = spec.channels or _SMALL_CHANNELS
            self.body = nn.Sequential(
                *_conv(channels + 2, first, 5, stride=2),
                *_conv(first, first, 3),
                *_conv(first, second, 5, stride=2),
                *_conv(second, second, 3),
            )
            out = second
        else:
            self.body, out = _resnet18(channels, spec.norm == "folded"), 512
        self.rectifies = spec.activation == "relu"
        self.maps = self.hidden = None
        if spec.pooling == "mean":
            return
        self.maps = nn.Conv2d(out, spec.keypoints, 1)
        self.temperature = spec.softmax_temperature
        n_points = 2 * spec.keypoints
        self.head = nn.Linear(n_points, spec.features)
        if spec.hidden:
            self.hidden = nn.Sequential(
                nn.Linear(n_points, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.features)
            )

    def forward(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Encode; `rows` (N or 1, h) and `columns` (N or 1, w) are where in the whole picture they lie, -1 to 1."""
        trained_here = self._is_trained_here(x)
        if trained_here and len(x) > _AT_A_TIME:
            n = len(x)
            parts = (each.expand(n, -1).split(_AT_A_TIME) for each in (rows, columns))
            return torch.cat([self(*each) for each in zip(x.split(_AT_A_TIME), *parts, strict=True)])
        if self.has_coordinates:
            n, _, h, w = x.shape
            at = torch.stack([columns.unsqueeze(1).expand(n, h, w), rows.unsqueeze(2).expand(n, h, w)], dim=1)
            if trained_here:
                at = at.contiguous(memory_format=torch.channels_last)  # as the pictures are
            x = torch.cat([x, at], dim=1)
        seen: Tensor = channels_last.run(self.body, x) if trained_here else self.body(x)
        if self.maps is None:
            found = seen.mean((2, 3))
        else:
            points = spatial_softmax(self.maps(seen) / self.temperature, rows, columns)
            found = self.head(points)
            if self.hidden is not None:
                found = found + self.hidden(points)
        return F.relu(found) if self.rectifies else found

    def _is_trained_here(self, x: Tensor) -> bool:
        """Whether gradients are wanted, on a CPU."""
        return self.fast_training and self.training and torch.is_grad_enabled() and x.device.type == "cpu"


def spatial_softmax(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean positions (N, 2 K), all x and then all y, of maps (N, K, h', w') of pictures with these rows and columns."""
    n, k, h, w = maps.shape
    weights = maps.flatten(2).softmax(-1).view(n, k, h, w)
    x = (weights.sum(2) * _spread(columns, w).unsqueeze(1)).sum(-1)
    y = (weights.sum(3) * _spread(rows, h).unsqueeze(1)).sum(-1)
    return torch.cat([x, y], dim=1)


def crop(
    pictures: Tensor, size: tuple[int, ...], place: Tensor | None, *, rounds: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Part of `size` (h, w) of pictures (B, n_obs_steps, H, W, C), and where in the whole it lies.

    `rounds` is `VisionSpec.crop_rounds`.

    Returns the pixels (B, n_obs_steps, h, w, C), and the middle of each row (B or 1, h) and column (B or 1, w), -1 to
    1 from edge to edge of the whole picture.
    """
    (height, width), (h, w) = pictures.shape[2:4], size
    row, column = (torch.arange(n, device=pictures.device) for n in (h, w))
    if place is None:
        top, left = (middle(height, h, rounds), middle(width, w, rounds))
        pixels = pictures[:, :, top : top + h, left : left + w]
        rows, columns = (row + top).unsqueeze(0), (column + left).unsqueeze(0)
    else:
        room = torch.tensor([height - h + 1, width - w + 1], device=place.device)
        corner = (place * room).long().minimum(room - 1).to(pictures.device)  # (B, 2)
        rows, columns = corner[:, :1] + row, corner[:, 1:] + column
        sample = torch.arange(len(pictures), device=pictures.device).view(-1, 1, 1)
        pixels = pictures.transpose(1, 2).transpose(2, 3)[sample, rows.unsqueeze(2), columns.unsqueeze(1)]
        pixels = pixels.permute(0, 3, 1, 2, 4)
    return pixels, (rows + 0.5) * (2.0 / height) - 1.0, (columns + 0.5) * (2.0 / width) - 1.0


def _spread(places: Tensor, n: int) -> Tensor:
    """`n` places, evenly from the first to the last of (N, m)."""
    share = torch.linspace(0.0, 1.0, n, device=places.device) if n > 1 else places.new_full((1,), 0.5)
    return places[:, :1] + (places[:, -1:] - places[:, :1]) * share


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Convolution, group norm of 8 channels a group, ReLU."""
    conv = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False)
    return [conv, nn.GroupNorm(channels_out // 8, channels_out), nn.ReLU()]


def _resnet18(channels: int, folded: bool) -> nn.Sequential:
    """ResNet-18 (He et al., 2016, arXiv 1512.03385) without its head; groups of 16 channels, or norms folded."""
    layers: list[nn.Module] = [*_normed(channels, 64, 7, 2, folded), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for width in (64, 128, 256, 512):
        layers.append(_BasicBlock(before, width, 1 if width == 64 else 2, folded))
        layers.append(_BasicBlock(width, width, 1, folded))
        before = width
    return nn.Sequential(*layers)


def _normed(channels_in: int, channels_out: int, size: int, stride: int, folded: bool) -> list[nn.Module]:
    """Convolution and group norm of 16 channels a group, or a convolution that a norm has been folded into."""
    conv = nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=folded)
    return [conv, nn.Identity() if folded else nn.GroupNorm(channels_out // 16, channels_out)]


class _BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, folded: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normed(channels_in, channels_out, 3, stride, folded),
            nn.ReLU(),
            *_normed(channels_out, channels_out, 3, 1, folded),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(*_normed(channels_in, channels_out, 1, stride, folded))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))
