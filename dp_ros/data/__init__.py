"""Recorded demonstrations: the file format, its writer, its reader and the training samples cut from it.

Nothing here imports rclpy or torch.
"""
