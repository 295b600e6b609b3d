"""The web console: what a browser may see and do. Knows neither ROS nor the robot; `nodes/console_node.py` does."""
