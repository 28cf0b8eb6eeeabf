"""Whose store a run's folder may name. The folder may be another person's: no call, token or password goes where only it says.

The user's store is the one that he names (tracking.uri, MLFLOW_TRACKING_URI) or else the one under his output folder. A folder's
own word is taken where it names that, or a sqlite file that lies in a folder above it and holds its run, so that own runs can be
read from anywhere, also moved ones. Into such a file's artifacts nothing is written that would lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.tracking import MlflowClient

from ebm_pipeline.support.errors import UserError
from ebm_pipeline.tracking import logged_models
from ebm_pipeline.tracking.address import SQLITE, check_address, database_file, is_local, printable, without_password
from ebm_pipeline.tracking.moved import above, set_places_right
from ebm_pipeline.tracking.store import ask


class StrangeStoreError(UserError):
    """A run's folder names a store that is not the user's."""


def permitted(folder: Path, named: str, users: str, holds: Callable[[str], bool | None]) -> str:
    """The store to use for the run in `folder`, whose run.json names `named`; raises UserError where that is not the user's.

    holds: whether a sqlite store has the run; None where only MLflow can tell.
    """
    own = _same(named, users)
    if own and not (is_local(users) and holds(users) is False):
        return users
    found = _found_above(folder, named, holds)
    if found is not None:
        return users if _same(found, users) else found
    if own or _is_gone(named):
        return users
    shown = printable(without_password(named)[:200])
    raise StrangeStoreError(
        f"the run in {folder} names the MLflow store {shown!r}, and yours is {without_password(users)!r}: none is asked because "
        f"a folder names it. If that one is yours or you trust it, say so: tracking.uri={shown} (or MLFLOW_TRACKING_URI)"
    )


def check_artifacts(uri: str, run_id: str, users: str) -> None:
    """For who writes: in a store that only a folder names the files of the run and of its models must lie beside it, and hold no
    links."""
    if uri == users:
        return
    set_places_right(uri)
    root = database_file(uri).absolute().parent.resolve()
    for address in ask(uri, lambda client: _addresses(client, run_id)):
        place = Path(url2pathname(urlsplit(address).path)) if urlsplit(address).scheme == "file" else None
        if place is None or not place.resolve().is_relative_to(root):
            raise StrangeStoreError(
                f"the MLflow store {uri} keeps the files of the run {run_id} at {address[:200]!r}, which is not beside it: if "
                f"that store is yours, say so: tracking.uri={uri}"
            )
        if any(path.is_symlink() for path in place.rglob("*")):
            raise StrangeStoreError(
                f"{place} holds links, which no run has made: remove them, or, if the store is yours, say tracking.uri={uri}"
            )


def _addresses(client: MlflowClient, run_id: str) -> list[str]:
    """Where the files of a run are, where those of its experiment's models come to be, and where those of its own models are."""
    run = client.get_run(run_id)
    models = client.get_experiment(run.info.experiment_id).artifact_location.rstrip("/") + "/models"
    own = (logged_models.of_run(client, run) or {}).values()
    return [str(run.info.artifact_uri), models, *(model.artifact_location for model in own)]


def _same(named: str, users: str) -> bool:
    with suppress(ValueError, OSError, RuntimeError):  # of what is no path or address at all
        if is_local(named) and is_local(users):
            return named == users or _file(named) == _file(users)
        return _address(named) == _address(users)
    return False


def _file(uri: str) -> Path:
    return database_file(uri).absolute().resolve()


def _address(uri: str) -> tuple[str, str | None, int | None, str, str]:
    """What of an address says where a server is: no user, no password."""
    parts = urlsplit(uri)
    return parts.scheme.lower(), parts.hostname, parts.port, parts.path.rstrip("/"), parts.query


def _found_above(folder: Path, named: str, holds: Callable[[str], bool | None]) -> str | None:
    """The sqlite store of the name that a folder gives, in a folder above, that holds its run."""
    if not named.startswith(SQLITE):
        return None
    for place in above(folder):
        found = f"{SQLITE}{place / database_file(named).name}"
        with suppress(UserError, ValueError, OSError):
            check_address(found)
            if not database_file(found).is_symlink() and holds(found):
                return found
    return None


def _is_gone(named: str) -> bool:
    """Whether a folder names a file that is not there: then the user's store is asked, which may have the run."""
    with suppress(UserError, ValueError, OSError):
        check_address(named)
        return is_local(named) and not database_file(named).exists()
    return False
