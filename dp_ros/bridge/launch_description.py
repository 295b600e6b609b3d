"""A bring-up as a launch description, for `ros2 launch`.

The nodes are made when the arguments are known, so that launch and `dp-ros up` go through the same
`bringup.from_text` and refuse the same mistakes in the same words. Written against the Jazzy release of
launch_ros. The policy is a plain Node here although it is a lifecycle node: it configures and activates
itself (its parameter `autostart`), which Jazzy's LifecycleNode cannot, and without one launch needs no
ROS node of its own, whose end a second Ctrl-C can turn into an abort.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch_ros.actions import Node

from dp_ros.bringup import NodeSpec, arguments_of, from_text
from dp_ros.dds import profile_variables


def launch_description(name: str) -> LaunchDescription:
    """Launch description of a bring-up: its arguments, then its nodes."""
    arguments = arguments_of(name)

    def nodes(context: LaunchContext) -> list[Action]:
        given = {argument.name: context.launch_configurations[argument.name] for argument in arguments}
        variables = profile_variables(os.environ)
        return [_action(node, variables) for node in from_text(name, given).nodes]

    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=None if argument.default is None else _text(argument.default),
            description=argument.description,
        )
        for argument in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _action(node: NodeSpec, variables: Mapping[str, str]) -> Action:
    return Node(
        package="dp_ros",
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[dict(node.parameters)],
        remappings=list(node.remappings.items()),
        additional_env=dict(variables),
        output="screen",
        emulate_tty=True,
        on_exit=[OpaqueFunction(function=_end_of, args=[node.name])] if node.required else None,
    )


def _end_of(context: LaunchContext, name: str) -> list[Action]:
    """Stop everything once a node has ended; a second Shutdown, for the others, would be an error."""
    return [] if context.is_shutdown else [Shutdown(reason=f"{name} ended")]
