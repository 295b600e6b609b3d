"""Policies as torch modules: networks, normalisation, diffusion. Nothing here knows ROS."""
