"""What a browser may say: JSON objects of a few kinds, checked before anything is done.

`{"place": [...]}`, `{"drive": [...]}`, `{"let_go": true}` and `{"deadman": true}` are repeated while a hand is on the
device, `{"replay": true}` while an episode is replayed on the robot; they get no answer. `{"id": 1, "do":
"record.start", ...}` asks for something and gets one, with that id.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

#: A message longer than this is not one of ours.
MOST_BYTES = 16 * 1024
#: What needs no control: to stop is everybody's.
FOR_ALL = ("control.take", "control.release", "policy.cancel", "policy.emergency_stop", "robot.stop_replay")
#: A text that is saved with an episode has so many characters at most.
MOST_TEXT = 500

Number = Annotated[float, Field(allow_inf_nan=False)]
Values = Annotated[list[Number], Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Place(_Message):
    """The device is held and points there."""

    place: Values


class Drive(_Message):
    """The device is held and asks for speeds."""

    drive: Values


class LetGo(_Message):
    """The device was let go."""

    let_go: Literal[True]


class Deadman(_Message):
    """The policy's deadman is held, or was let go."""

    deadman: bool


class Replay(_Message):
    """Somebody watches the episode that is replayed on the robot."""

    replay: Literal[True]


class Do(_Message):
    """Do something once."""

    id: int = Field(ge=0, le=2**31)
    do: Literal[
        "control.take",
        "control.release",
        "record.start",
        "record.save",
        "record.discard",
        "record.delete_last",
        "record.mark",
        "record.label",
        "policy.run",
        "policy.cancel",
        "policy.emergency_stop",
        "policy.clear_emergency_stop",
        "episode.mark",
        "robot.reset",
        "robot.replay",
        "robot.stop_replay",
    ]
    success: bool | None = None  # record.mark, episode.mark
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)  # robot.reset, policy.run
    time_limit_s: float | None = Field(default=None, gt=0.0, le=86_400.0)  # policy.run
    operator: Text | None = None  # record.label
    instruction: Text | None = None  # record.label
    episode: int | None = Field(default=None, ge=0, le=2**31)  # robot.replay, episode.mark
    speed: float | None = Field(default=None, gt=0.0, le=2.0)  # robot.replay; 1 is as recorded


Message = Place | Drive | LetGo | Deadman | Replay | Do
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Message)


def parse(text: str | bytes) -> Message:
    """What a browser said.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"a message of {len(text)} bytes, expected {MOST_BYTES} at most")
    try:
        message: Message = _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"not a message that this console knows: {where}: {first['msg']}") from None
    return message
