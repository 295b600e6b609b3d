"""Parameters of the recorder: declared once, read when it starts.

Easy to get wrong: lockstep waits for every participant and records what the task names and nothing else, so what goes
beside that is refused there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, get_args

from dp_ros.bridge.bags.raw_intake import RawStreams
from dp_ros.bridge.command_topics import TAKEOVER_HOLD_NS
from dp_ros.bridge.parameters import declare
from dp_ros.data.layout import NO_SEED
from dp_ros.data.stored_pictures import PictureStorage
from dp_ros.errors import UserError
from dp_ros.task import TaskSpec, load_task


@dataclass(frozen=True)
class RecorderOptions:
    """What a recorder was told.

    Attributes:
        task: what is recorded. out: the recording.
        lockstep: take part in lockstep simulation. operator: participant whose commands are recorded.
        hold_ns: how long a command counts after its last point.
        operator_topic: of an operator who takes over; empty: nobody does. takeover_topic: on which a policy says so.
        low_disk_bytes: free space below which it warns. full_disk_bytes: free space below which recording ends.
        raw_streams: which streams are recorded as they come, too.
        storage: of the pictures of a new recording.
    """

    task: TaskSpec
    out: str
    lockstep: bool
    operator: str
    hold_ns: int
    operator_topic: str
    takeover_topic: str
    low_disk_bytes: int
    full_disk_bytes: int
    raw_streams: RawStreams
    storage: PictureStorage


def declared_options(node: Any) -> RecorderOptions:
    """Declare every parameter and read those that cannot change.

    Raises:
        UserError: if one is wrong, or they do not go together.
    """

    def fixed(name: str, default: Any, description: str, **limits: Any) -> Any:
        return declare(node, name, default, description, read_only=True, **limits)

    task = load_task(fixed("task", "pusht_state", "task file or name"))
    out = fixed("out", "", "zarr recording that episodes are appended to")
    lockstep = fixed("lockstep", False, "take part in lockstep simulation as `recorder`")
    operator = fixed("operator", "teleop", "lockstep participant whose commands are recorded")
    hold_steps = fixed(
        "hold_steps",
        3.0,
        "steps for which a command counts after its last point (lockstep: 1)",
        low=1.0,
        high=100.0,
    )
    operator_topic = fixed(
        "operator_topic",
        "/policy/operator",
        "on which the operator commands who takes over from a policy; counts with takeover_topic",
    )
    takeover_topic = fixed(
        "takeover_topic",
        "",
        "on which a policy says that an operator has taken over, e.g. /policy/takeover; marks these steps",
    )
    low_mb = fixed("low_disk_mb", 2000, "free space below which it warns, MB", low=0, high=10**9)
    full_mb = fixed(
        "full_disk_mb",
        200,
        "free space below which recording ends, MB; what was recorded can still be saved",
        low=0,
        high=10**9,
    )
    raw = fixed(
        "raw_streams",
        "none",
        "streams that are recorded as they come, too, each at its own rate, in MCAP files beside the recording",
        choices=get_args(RawStreams),
    )
    quality = fixed(
        "jpeg_quality",
        0,
        "pictures of a new recording are stored as JPEG of this quality, 1 to 100; 0: lossless",
        low=0,
        high=100,
    )
    crf = fixed(
        "video_crf",
        0,
        "pictures of a new recording are stored as video of this constant rate factor, 1 (best) to 51; 0: not",
        low=0,
        high=51,
    )
    seed = "seed of the episode's start, saved with it; -1: none"
    declare(node, "episode_seed", NO_SEED, seed, low=-1, high=2**62)
    declare(node, "operator_name", "", "who demonstrates, saved with each episode")
    declare(node, "instruction", "", "what the robot is to do, saved with each episode")
    if not out:
        raise UserError("parameter out is empty; give the recording to make or extend, e.g. out:=data/x.zarr")
    if quality and crf:
        raise UserError(f"jpeg_quality {quality} and video_crf {crf}: give one of them, 0 for the other")
    if lockstep and (task.action.output != "trajectory" or takeover_topic):
        raise UserError(
            f"task {task.name}: lockstep records trajectories without takeovers; set lockstep to false"
        )
    if lockstep and raw != "none":
        raise UserError(f"raw_streams: got {raw}, but lockstep records the grid alone; set lockstep to false")
    hold_ns = round(task.dt_ns * (1.0 if lockstep else hold_steps))
    return RecorderOptions(
        task=task,
        out=out,
        lockstep=lockstep,
        operator=operator,
        hold_ns=max(hold_ns, TAKEOVER_HOLD_NS) if takeover_topic else hold_ns,
        operator_topic=operator_topic if takeover_topic else "",
        takeover_topic=takeover_topic,
        low_disk_bytes=low_mb * 1_000_000,
        full_disk_bytes=full_mb * 1_000_000,
        raw_streams=cast(RawStreams, raw),
        storage=PictureStorage(quality or None, crf or None),
    )
