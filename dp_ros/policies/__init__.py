"""Policies as torch modules: networks, normalisation and the diffusion around them. Nothing here knows ROS."""
