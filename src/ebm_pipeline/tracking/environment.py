"""What MLflow is told before its first call. Imports nothing heavy, so that every command can call it at once."""

from __future__ import annotations

import logging
import os

_HTTP = {"MAX_RETRIES": "1", "TIMEOUT": "4", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0"}
_TALKATIVE = (
    "alembic",
    "mlflow.tracking",
    "mlflow.store",
    "mlflow.system_metrics",
    "mlflow.pyfunc",
    "mlflow.utils.rest_utils",
)


def set_up_mlflow() -> None:
    """What every command sets before its first call: short waits and few words. Variables that are set already stay.

    A server that does not answer then costs seconds, not minutes: what it missed is sent again later.
    """
    for name, value in _HTTP.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")  # an hour, if the server says so
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reports to its makers otherwise
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of a model's few small files
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    # a locked or full store, or Ctrl-C in the middle of a query, with a traceback: it is raised too, and said in one line
    for name in ("mlflow.store.db.utils", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
