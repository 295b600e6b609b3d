"""From a model folder to action chunks. `engine.load_engine` is the way in; only `torch.py` and `export.py` need torch."""
