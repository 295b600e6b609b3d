"""Simulated robots: their worlds, their pictures and scripted operators.

Nothing here imports rclpy or torch. `pusht` is the world, `pusht_view` draws it, `pusht_expert` solves it.
"""
