"""What runs could not send while their store was down, sent afterwards."""

from __future__ import annotations

import logging
from pathlib import Path

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking.address import without_password
from ebm_pipeline.tracking.journal import FOLDER, NAME
from ebm_pipeline.tracking.records import run_of, store_of
from ebm_pipeline.tracking.store import answering
from ebm_pipeline.tracking.tracker import Tracker
from ebm_pipeline.tracking.whose import StrangeStoreError, check_artifacts

log = logging.getLogger(__name__)


def send_kept(folder: Path, users: str) -> int:
    """`ebm-sync`: send what runs in `folder`, at any depth, could not send; returns how many calls that were.

    users: the user's store. A run of another gets nothing sent there: after all others, that is a UserError.
    """
    count = 0
    strange: list[UserError] = []
    for journal in sorted(folder.rglob(f"{FOLDER}/{NAME}")):
        run = journal.parents[1]
        try:
            count += _send_of(run, users)
        except StrangeStoreError as error:
            strange.append(error)
    if strange:
        more = f" ({len(strange) - 1} more runs likewise)" if len(strange) > 1 else ""
        raise UserError(f"sent {count} calls; {strange[0]}{more}")
    return count


def _send_of(run: Path, users: str) -> int:
    uri = store_of(run, users)
    check_artifacts(uri, run_of(run)["run_id"], users)
    with answering(uri):
        count = Tracker(uri, run_of(run)["run_id"], "", run).send_kept()
    log.info(f"{run}: sent to {without_password(uri)}")
    return count
