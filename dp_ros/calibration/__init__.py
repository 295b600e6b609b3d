"""What a robot's streams and actuators are late by, estimated from recorded motion; numpy only, no ROS."""
