"""Action chunks from a model folder, by `load.load_engine`; torch.py, graph.py and export.py need torch."""
