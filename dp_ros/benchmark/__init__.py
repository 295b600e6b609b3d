"""Measurements of the runtime that `dp-ros bench runtime` prints, stores and draws.

What is measured is defined where it is measured (`ticks`, `stages`, `seam`, `delay`); `report` holds the results.
"""
