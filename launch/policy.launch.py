"""The policy node for a robot that is already running: give it a model, and a task if not the model's."""

from launch import LaunchDescription

from dp_ros.bridge.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("policy")
