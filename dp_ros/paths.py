from pathlib import Path
def share_dir() -> Path:
    return Path(__file__).resolve().parent.parent
