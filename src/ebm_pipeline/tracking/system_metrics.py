"""MLflow's numbers of processor, memory, disk, network and GPU, on the way that all numbers of a run take.

MLflow's own loop ends for good at the first call that fails, and a run of less than its interval gets no number at all.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from ebm_pipeline.support.names import SYSTEM
from ebm_pipeline.tracking.tracker import Tracker

LEFT_OUT = ("disk_", "memory_usage_percentage")  # of the machine, or said by others


class SystemMetrics(SystemMetricsMonitor):
    """A thread that logs a sample at once, then one every 10 s (MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL)."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(tracker.run_id, tracking_uri=tracker.uri)
        self.tracker = tracker

    def monitor(self) -> None:
        while True:
            self.collect_metrics()
            self.publish_metrics(self.aggregate_metrics())
            if self._shutdown_event.wait(self.sampling_interval):
                return

    def publish_metrics(self, metrics: dict[str, Any]) -> None:
        kept = {name: value for name, value in metrics.items() if not any(word in name for word in LEFT_OUT)}
        self.tracker.log_apart({SYSTEM + name: value for name, value in kept.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
