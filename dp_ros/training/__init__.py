"""Training and evaluation. Only `evaluate.py` and `config.py` do without torch."""
