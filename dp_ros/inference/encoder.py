"""Pictures to features, each picture once.

With n_obs_steps > 1 a picture is in several observations, and a node has those that its next inference will look at
encoded when they arrive, before it is due (`Engine.see`). A picture is known by its stamp where it has one
(`FrameStamp`), and else by its content. Easy to get wrong: a stamp alone is no name, because a bag that begins anew
and the next episode of a simulation have the same ones; a `FrameStamp` also says which recollection it belongs to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_ros.runtime.observation import FrameStamp

#: Pictures of a camera that are remembered, beyond those of an observation.
_SPARE = 2

Floats = NDArray[np.float32]


#: Pictures (n, height, width, channels) uint8 to features (n, F); what a picture gives does not depend on the others.
Encode = Callable[[NDArray[Any]], Floats]


class PictureEncoders:
    """Encoders of the cameras of a model, and what they gave of the last pictures.

    Args:
        encoders: {camera: its encoder}.
        n_obs_steps: pictures of an observation.
    """

    def __init__(self, encoders: Mapping[str, Encode], n_obs_steps: int) -> None:
        self._encoders = dict(encoders)
        self._seen: dict[str, deque[tuple[FrameStamp | None, NDArray[Any] | None, Floats]]] = {
            key: deque(maxlen=n_obs_steps + _SPARE) for key in encoders
        }
        self.encoded = 0
        """Pictures that had to be encoded."""

    def see(self, key: str, picture: NDArray[Any], frame: FrameStamp | None = None) -> Floats:
        """Features (F,) of a picture (height, width, channels) uint8 of a camera, from memory where it was seen.

        `frame` is what it is known by; without one, its content is.
        """
        return self.encode(key, picture[None], None if frame is None else [frame])[0]

    def encode(self, key: str, pictures: NDArray[Any], frames: Sequence[FrameStamp] | None = None) -> Floats:
        """Features (n, F) of a camera's pictures (n, height, width, channels), known by `frames` if given."""
        known: Sequence[FrameStamp | None] = [None] * len(pictures) if frames is None else frames
        first = [
            next(j for j in range(i + 1) if _same(picture, frame, pictures[j], known[j]))
            for i, (picture, frame) in enumerate(zip(pictures, known, strict=True))
        ]
        features = {i: self._recall(key, pictures[i], known[i]) for i in first}
        new = [i for i, found in features.items() if found is None]
        if new:
            for i, found in zip(new, self._encoders[key](pictures[new]), strict=True):
                features[i] = found
                self._seen[key].append((known[i], pictures[i].copy() if known[i] is None else None, found))
            self.encoded += len(new)
        return np.stack([features[i] for i in first])  # type: ignore[misc]

    def _recall(self, key: str, picture: NDArray[Any], frame: FrameStamp | None) -> Floats | None:
        for known, content, features in reversed(self._seen[key]):
            if _same(picture, frame, content, known):
                return features
        return None


def _same(
    picture: NDArray[Any],
    frame: FrameStamp | None,
    other: NDArray[Any] | None,
    other_frame: FrameStamp | None,
) -> bool:
    return frame == other_frame and (frame is not None or np.array_equal(picture, other))  # type: ignore[arg-type]
