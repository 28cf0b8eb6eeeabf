"""Where the configuration lies."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """conf/ of the installed package, or else of the repository."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "conf"
