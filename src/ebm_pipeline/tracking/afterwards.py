"""What is added to runs that have ended: where their folders are now, evaluations."""

from __future__ import annotations

import logging
from typing import Any

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.support.files import can_write
from ebm_pipeline.tracking.moved import set_places_right
from ebm_pipeline.tracking.records import OUTPUT_TAG, RunRecord
from ebm_pipeline.tracking.tracker import Tracker, was_moved
from ebm_pipeline.tracking.whose import check_artifacts

log = logging.getLogger(__name__)


class Unkept(Tracker):
    """Of a run whose folder cannot be written: what the store does not take is not kept there; it is said once."""

    said = False

    def _write(self, what: str, **values: Any) -> None:
        try:
            super()._write(what, **values)
        except (UserError, OSError) as error:
            if not self.said:
                log.warning(f"nothing is added to the run {self.run_id}, whose folder cannot be written: {error}")
            self.said = True


def reopened(run: RunRecord, users: str) -> Tracker:
    """What writes to a run that has ended; one whose folder was moved learns where it is. users: the user's store."""
    assert run.output_dir is not None
    check_artifacts(run.uri, run.run_id, users)
    set_places_right(run.uri)
    writable = can_write(run.output_dir)
    tracker = Tracker(run.uri, run.run_id, "", run.output_dir) if writable else Unkept(run.uri, run.run_id, "")
    if was_moved(run.tags.get(OUTPUT_TAG), run.run_id, run.output_dir):
        tracker.set_tags({OUTPUT_TAG: str(run.output_dir)})
    return tracker
