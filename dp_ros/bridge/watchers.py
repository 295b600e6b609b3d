"""Who listens to commands only to watch: nodes of this package that must not be taken for a robot's controller.

A subscription does not say what it is for, so they are told by the name of their node. Easy to get wrong: a node that
was given another name is not known here, and counts as a controller.
"""

from __future__ import annotations

from typing import Any

RECORDER, VIEW, MOTION_RECORDER = "recorder", "view", "motion_recorder"
#: Names of nodes that record or show commands.
WATCHERS = frozenset({RECORDER, VIEW, MOTION_RECORDER})


def watches(node_name: str) -> bool:
    """Whether a node only watches: one of ours, or a hidden one, as those of `ros2 topic echo` are."""
    return node_name in WATCHERS or node_name.startswith("_")


def count_executors(node: Any, topic: str) -> int:
    """How many subscribe to a topic, as far as a node knows, but for those that only watch."""
    return sum(not watches(info.node_name) for info in node.get_subscriptions_info_by_topic(topic))
