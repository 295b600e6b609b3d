"""Checkpoints of other projects to policies of this one: LeRobot's and those of the Diffusion Policy reference."""
