"""The `dp-ros` command: one thin module for each verb, over the other parts of the package."""
