"""A request's body, read as data: JSON of MLflow's protocol to images and parameters, or one message of what is wrong.

    {"inputs": [[0, 1, ...], ...], "params": {"task": "sample", "sweeps": 100}}

`instances` is another name of `inputs`; `dataframe_split` and `dataframe_records` are a table, whose columns are taken in their
order. All values are numbers: what JSON, NumPy or pandas would turn into one (true, "1", null, NaN) is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebm_pipeline.support.errors import UserError

FORMATS = ("inputs", "instances", "dataframe_split", "dataframe_records")
PARAMS = "params"
EXAMPLE = '{"inputs": [[0, 1, ...], ...], "params": {"task": "reconstruct"}}'
NUMBERS = {int, float}
MOST_SHOWN = 40  # characters of a value in a message


def parse_request(body: bytes) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Images (images, units) and parameters by name; raises UserError for everything else."""
    request = _decoded(body)
    given = [name for name in FORMATS if name in request]
    unknown = [name for name in request if name not in (*FORMATS, PARAMS)]
    if len(given) != 1 or unknown:
        raise UserError(
            f"expected an object with one of {', '.join(FORMATS)}, and {PARAMS} where wanted; got {_keys(request)}. Send "
            f"{EXAMPLE}"
        )
    params = request.get(PARAMS)
    if not isinstance(params, dict | None):
        raise UserError(f'{PARAMS} must be an object, such as {{"task": "score"}}; got {shown(params)}')
    for name, value in (params or {}).items():
        if isinstance(value, list | dict) or (isinstance(value, str) and len(value) > MOST_SHOWN):
            raise UserError(f"{PARAMS} {name[:MOST_SHOWN]!r} must be a number or a short text; got {shown(value)}")
    return _array(_rows(given[0], request[given[0]]), given[0]), params or {}


def shown(value: object) -> str:
    """A value of JSON in a message, in the words of JSON.

    >>> shown(None), shown("x"), shown([1]), shown(2.5)
    ('null', "the text 'x'", 'a list', '2.5')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"the text {value[:MOST_SHOWN]!r}"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else str(value)[:MOST_SHOWN]


def _keys(request: Iterable[str]) -> str:
    return ", ".join(repr(name[:MOST_SHOWN]) for name in list(request)[:6]) or "an empty object"


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except RecursionError as error:
        raise UserError(f"the body is nested too deeply: send JSON such as {EXAMPLE}") from error
    except ValueError as error:  # no JSON, no UTF-8, or a whole number of thousands of digits
        raise UserError(f"the body is no JSON ({_reason(error)}): send JSON such as {EXAMPLE}") from error
    if not isinstance(found, dict):
        raise UserError(f"the body must be an object, such as {EXAMPLE}; got {shown(found)}")
    return found


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no {error.encoding}"
    return (str(error).splitlines() or [type(error).__name__])[0].split("; use sys.")[0]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _rows(name: str, given: object) -> list[list[Any]]:
    """The rows of a format, whatever stands in them."""
    if name == "dataframe_split":
        return _split(given)
    expected = (
        "a list of records, each an object"
        if name == "dataframe_records"
        else "a list of images, each a list of numbers"
    )
    row = dict if name == "dataframe_records" else list
    if not isinstance(given, list):
        raise UserError(f"{name} must be {expected}; got {shown(given)}")
    if not given:
        raise UserError(f"{name} must be {expected}; got an empty list: send at least one image")
    for index, one in enumerate(given):
        if not isinstance(one, row):
            raise UserError(f"{name} must be {expected}; at {index} stands {shown(one)}")
    return _records(given) if name == "dataframe_records" else given


def _split(given: object) -> list[list[Any]]:
    parts = given if isinstance(given, dict) else {}
    if "data" not in parts or parts.keys() - {"columns", "index", "data"}:
        what = _keys(parts) if isinstance(given, dict) else shown(given)
        raise UserError(f"dataframe_split must be an object with data, and columns and index where wanted; got {what}")
    rows = _rows("dataframe_split's data", parts["data"])
    for name, count, counted in (("columns", len(rows[0]), "numbers of a row"), ("index", len(rows), "rows")):
        labels = parts.get(name)
        if labels is not None and (not isinstance(labels, list) or len(labels) != count):
            what = f"{len(labels)} of them" if isinstance(labels, list) else shown(labels)
            raise UserError(
                f"dataframe_split's {name} must be a list, one for each of the {count} {counted}; got {what}"
            )
    return rows


def _records(records: list[dict[str, Any]]) -> list[list[Any]]:
    names = list(records[0])
    for index, record in enumerate(records):
        if record.keys() != records[0].keys():
            raise UserError(f"dataframe_records must have the same names in all records; the one at {index} has others")
    return [[record[name] for name in names] for record in records]


def _array(rows: list[list[Any]], name: str) -> NDArray[np.float64]:
    """Rows of numbers of one length as an array (images, units)."""
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UserError(
                f"the images of {name} must have the same length: that at 0 has {len(rows[0])} numbers, that at {index} "
                f"{len(row)}"
            )
        if not set(map(type, row)) <= NUMBERS:
            value = next(value for value in row if type(value) not in NUMBERS)
            raise UserError(f"the images of {name} must be lists of numbers; in that at {index} stands {shown(value)}")
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]))
    except OverflowError as error:
        raise UserError(f"the images of {name} must be numbers that float32 holds; got a larger one") from error
