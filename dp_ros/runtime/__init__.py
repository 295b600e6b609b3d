"""What runs between a policy and a robot: numpy only, no ROS, no torch, no threads of its own.

Time comes in as nanoseconds and messages as arrays, which is what lets a fake clock test it and what
makes a simulated episode in one process equal the same episode over ROS bit for bit.
"""
