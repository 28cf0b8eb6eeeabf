"""`ebm-sync`: what runs could not send while the MLflow store was down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from ebm_pipeline.runs.configuration import STORE_KEYS, check_keys, tracking_uri
from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.unsent import send_kept


def sync(config: DictConfig) -> str:
    """Send what the runs under a folder have kept; returns what was done, for the terminal."""
    check_keys(config, {"run": str | None, "output_root": str, "tracking": Mapping}, "")
    check_keys(config.tracking, STORE_KEYS, "tracking.")
    folder = Path(config.run or config.output_root)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a run or of a sweep, run=FOLDER")
    count = send_kept(folder.absolute(), tracking_uri(config))
    return f"sent {count} calls" if count else f"nothing to send under {folder}"
