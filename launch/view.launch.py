"""What a robot that runs already sees and does, in the rerun viewer (rerun:=spawn, HOST:PORT or FILE.rrd)."""

from launch import LaunchDescription

from dp_ros.bridge.launch_description import launch_description


def generate_launch_description() -> LaunchDescription:
    return launch_description("view")
