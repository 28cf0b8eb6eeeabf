"""Wrong requests to a model of 16 binary visible units, by what is wrong with them: what is sent, and words of the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PIXELS = 16
ROW = [0, 1] * 8
JSON = "application/json"


@dataclass(frozen=True)
class Bad:
    """A request, and what its answer says."""

    body: bytes
    says: str
    status: int = 400
    kind: str | None = JSON  # content type


def sent(**parts: Any) -> bytes:
    return json.dumps(parts).encode()


def raw(text: str, says: str, status: int = 400) -> Bad:
    return Bad(text.encode(), says, status)


def inputs(rows: Any, says: str) -> Bad:
    return Bad(sent(inputs=rows), says)


def value(text: str, says: str) -> Bad:
    """An image of which one pixel is this text of JSON."""
    return raw(f'{{"inputs": [[{text}, {", ".join("0" * (PIXELS - 1))}]]}}', says)


def params(says: str, **chosen: Any) -> Bad:
    return Bad(sent(inputs=[ROW], params=chosen), says)


def sample(says: str, **chosen: Any) -> Bad:
    return params(says, task="sample", **chosen)


NUMBERS = "must be lists of numbers"
LIST = "must be a list of images, each a list of numbers"
SHAPE = r"expected images \(images, 16\), one row each; got"
SWEEPS = "sweeps must be a whole number, from 1 to 100000; got"
SEED = "seed must be a whole number, (at least 0|from 0 to 4294967295); got"
KEYS = "expected an object with one of inputs, instances"
TYPE = "expected the header Content-Type: application/json"
SPLIT = "dataframe_split must be an object with data"

BAD = {
    # no JSON, or another JSON
    "nothing": raw("", "the body is no JSON"),
    "a brace": raw("{", "the body is no JSON"),
    "half a request": raw('{"inputs": [[0, 1', "the body is no JSON"),
    "two objects": raw('{"inputs": [[0]]}{}', "the body is no JSON"),
    "no text": Bad(b"\xff\xfe\x00\x81" * 9, "the body is no JSON"),
    "a form": raw("inputs=1&params=2", "the body is no JSON"),
    "a list": raw("[[0, 1]]", "must be an object, .*; got a list"),
    "a number": raw("3", "must be an object, .*; got 3"),
    "a text": raw('"inputs"', "must be an object, .*; got the text 'inputs'"),
    "null": raw("null", "must be an object, .*; got null"),
    "nested without end": raw("[" * 100_000, "nested too deeply"),
    "nested and closed": raw('{"inputs": ' + "[" * 50_000 + "]" * 50_000 + "}", "nested too deeply"),
    "the same name twice": raw('{"inputs": [[0]], "inputs": [[1]]}', "the same name twice"),
    # names
    "an empty object": raw("{}", f"{KEYS}.*got an empty object"),
    "another name": Bad(sent(images=[ROW]), f"{KEYS}.*got 'images'"),
    "a misspelt name": Bad(sent(inputs=[ROW], param={}), f"{KEYS}.*got 'inputs', 'param'"),
    "two formats": Bad(sent(inputs=[ROW], instances=[ROW]), f"{KEYS}.*got 'inputs', 'instances'"),
    "params alone": Bad(sent(params={}), KEYS),
    "a signature's name": Bad(sent(signature_name="x", instances=[ROW]), KEYS),
    "a chat": Bad(sent(messages=[{"role": "user", "content": "draw a seven"}]), KEYS),
    "a long name": Bad(sent(**{"x" * 10**6: 1}), KEYS),
    "a mask": Bad(sent(inputs=[ROW], mask=[[1] * 15]), "got 'inputs', 'mask'"),
    "a shape": Bad(sent(inputs=[ROW], shape=[-1, 16]), "got 'inputs', 'shape'"),
    # shapes
    "inputs null": inputs(None, f"inputs {LIST}; got null"),
    "inputs a number": inputs(-1, f"{LIST}; got -1"),
    "inputs a text": inputs("0101", f"{LIST}; got the text '0101'"),
    "inputs a path": inputs("/etc/passwd", LIST),
    "inputs true": inputs(True, f"{LIST}; got true"),
    "inputs by name": inputs({"pixels": [ROW]}, f"{LIST}; got an object"),
    "no image": inputs([], "send at least one image"),
    "an image without pixels": inputs([[]], rf"{SHAPE} \(1, 0\)"),
    "one row": inputs(ROW, f"{LIST}; at 0 stands 0"),
    "too few columns": inputs([ROW[1:]], rf"{SHAPE} \(1, 15\)"),
    "too many columns": inputs([[*ROW, 0]], rf"{SHAPE} \(1, 17\)"),
    "a label for a model without": inputs([[*ROW, 0, 1]], rf"{SHAPE} \(1, 18\)"),
    "images as squares": inputs([[[0, 1, 0, 1]] * 4], f"{NUMBERS}; in that at 0 stands a list"),
    "ragged": inputs([ROW, ROW[1:]], "must have the same length: that at 0 has 16 numbers, that at 1 15"),
    "a row and a number": inputs([ROW, 3], f"{LIST}; at 1 stands 3"),
    "instances by name": Bad(sent(instances=[{"pixels": ROW}]), "at 0 stands an object"),
    # values
    "true and false": inputs([[True, False] * 8], f"{NUMBERS}; in that at 0 stands true"),
    "one true": inputs([[1, True, *ROW[2:]]], "stands true"),
    "texts": inputs([["1"] * 16], f"{NUMBERS}; in that at 0 stands the text '1'"),
    "words": inputs([["x"] * 16], NUMBERS),
    "nulls": inputs([[None] * 16], f"{NUMBERS}; in that at 0 stands null"),
    "an object as a pixel": inputs([[{"on": 1}, *ROW[1:]]], "stands an object"),
    "NaN": value("NaN", "NaN is no number of JSON"),
    "Infinity": value("-Infinity", "-Infinity is no number of JSON"),
    "nan in quotes": value('"nan"', "stands the text 'nan'"),
    "1e400": value("1e400", "expected finite numbers; got NaN, infinity"),
    "1e300": value("1e300", "too large for float32"),
    "400 digits": value("9" * 400, "numbers that float32 holds; got a larger one"),
    "5000 digits": value("9" * 5000, "the body is no JSON .*4300 digits"),
    "no state of the units": value("0.5", "bernoulli units need data of"),
    "minus one": value("-1", "bernoulli units need data of"),
    "grey levels": value("255", "bernoulli units need data of"),
    # tables
    "split a list": Bad(sent(dataframe_split=[ROW]), f"{SPLIT}.*got a list"),
    "split without data": Bad(sent(dataframe_split={"columns": ["a"]}), SPLIT),
    "split with more": Bad(sent(dataframe_split={"data": [ROW], "dtype": "f8"}), f"{SPLIT}.*'dtype'"),
    "split without rows": Bad(sent(dataframe_split={"data": []}), "send at least one image"),
    "split with other columns": Bad(
        sent(dataframe_split={"columns": ["a"], "data": [ROW]}), "columns must be .*16 numbers"
    ),
    "split with another index": Bad(sent(dataframe_split={"index": [0, 1], "data": [ROW]}), "index must be .*1 rows"),
    "split with a name as columns": Bad(sent(dataframe_split={"columns": "a", "data": [ROW]}), "got the text 'a'"),
    "split ragged": Bad(sent(dataframe_split={"data": [ROW, []]}), "same length"),
    "records an object": Bad(sent(dataframe_records={"a": 1}), "a list of records.*got an object"),
    "records of lists": Bad(sent(dataframe_records=[ROW]), "a list of records.*stands a list"),
    "records without any": Bad(sent(dataframe_records=[]), "at least one"),
    "records of other names": Bad(sent(dataframe_records=[{"a": 1}, {"b": 1}]), "the same names in all records"),
    "records of texts": Bad(sent(dataframe_records=[dict.fromkeys("abcdefghijklmnop", "1")]), NUMBERS),
    # parameters
    "params a list": Bad(sent(inputs=[ROW], params=["task"]), "params must be an object.*got a list"),
    "params a text": Bad(sent(inputs=[ROW], params="sample"), "params must be an object.*got the text"),
    "an unknown parameter": params("there is no parameter 'count': params may have task, sweeps, seed", count=10**9),
    "a misspelt parameter": params("no parameter 'sweep'", sweep=10),
    "a mask as a parameter": params("'mask' must be a number or a short text; got a list", mask=[0, 1]),
    "an unknown task": params("one of reconstruct, score, sample, classify; got 'denoise'", task="denoise"),
    "no task": params("got None", task=None),
    "a task in capitals": params("got 'SAMPLE'", task="SAMPLE"),
    "a task of a million letters": params("a short text; got the text 'x", task="x" * 10**6),
    "two tasks": params("'task' must be a number or a short text; got a list", task=["score", "sample"]),
    "labels of a model without": params("this model knows no labels", task="classify"),
    "no sweep": sample(f"{SWEEPS} 0", sweeps=0),
    "minus one sweep": sample(f"{SWEEPS} -1", sweeps=-1),
    "10^9 sweeps": sample(f"{SWEEPS} 1000000000", sweeps=10**9),
    "10^9 sweeps of another task": params(SWEEPS, sweeps=10**9),
    "1e9 sweeps": sample(f"{SWEEPS} 1000000000.0", sweeps=1e9),
    "half a sweep": sample(f"{SWEEPS} 2.5", sweeps=2.5),
    "sweeps true": sample(f"{SWEEPS} True", sweeps=True),
    "sweeps a text": sample(f"{SWEEPS} 'x'", sweeps="x"),
    "sweeps null": sample(f"{SWEEPS} None", sweeps=None),
    "sweeps an object": sample("'sweeps' must be a number or a short text; got an object", sweeps={}),
    "sweeps of 300 digits": sample(SWEEPS, sweeps=10**300),
    "a seed below zero": sample(SEED, seed=-1),
    "a seed too large": sample(f"{SEED} {2**32}", seed=2**32),
    "a seed of 30 digits": sample(SEED, seed=10**30),
    "half a seed": sample(SEED, seed=0.5),
    "a seed in words": sample(SEED, seed="today"),
    "too many sweeps of too many images": Bad(
        sent(inputs=[ROW] * 5000, params={"task": "sample", "sweeps": 100_000}),
        "cost more .*send at most .*or ask for at most",
    ),
    # what it is said to be
    "a table as text": Bad(b"a,b\n0,1\n", f"{TYPE}.*got 'text/csv'", 415, "text/csv"),
    "JSON without its name": Bad(sent(inputs=[ROW]), f"{TYPE}.*got none", 415, None),
    "JSON as plain text": Bad(sent(inputs=[ROW]), TYPE, 415, "text/plain"),
    "a form of a page": Bad(b"inputs=1", TYPE, 415, "application/x-www-form-urlencoded"),
    "parquet": Bad(b"PAR1" * 9, TYPE, 415, "application/vnd.apache.parquet"),
    "an empty type": Bad(sent(inputs=[ROW]), TYPE, 415, ""),
    "another charset": Bad(sent(inputs=[ROW]), TYPE, 415, "application/json; charset=latin-1"),
    "a parameter of the type": Bad(sent(inputs=[ROW]), TYPE, 415, "application/json; boundary=x"),
    # sizes
    "a body too large": Bad(b" " * (2**24 + 1), r"more than 16,777,216 bytes", 413),
    "four times the largest body": Bad(b"[" * 2**26, r"more than 16,777,216 bytes", 413),
}
