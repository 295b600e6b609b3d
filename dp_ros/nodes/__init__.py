"""ROS nodes: parameters, subscriptions, services, and nothing clever."""
