"""Inference in compiled code, for the networks that robots run most."""
