"""Whole columns instead of JSON: NPY and Arrow bodies for ``/predict`` and ``/invocations``, and answers in the same forms. Hot path."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from kaizenml.features.encoding.columns import Columns
from kaizenml.features.signature import Signature
from kaizenml.serving.deciding import Answered
from kaizenml.serving.dialects import npy, tensors
from kaizenml.serving.dialects.call import JSON, Call, Reply, asked, unjournaled
from kaizenml.serving.engine import Engine
from kaizenml.serving.protocol import Limits, PredictRequest, read_predict

NPY = b"application/x-npy"
ARROW = b"application/vnd.apache.arrow.stream"
FORMS = (NPY, ARROW)
UNIT = b"x-kaizen-unit"
_BLANKS: dict[str, Any] = {"FP64": np.nan, "BYTES": "", "BOOL": False, "INT64": 0}  # NPY never shows the last two, and Arrow none of them


def form(value: bytes) -> bytes | None:
    """Return which of the forms a content type, or an ``accept`` with several, names first; None for all others.

    >>> form(b"application/json, application/x-npy;q=0.5")
    b'application/x-npy'
    """
    for one in value.split(b","):
        kind = one.partition(b";")[0].strip().lower()
        if kind in FORMS:
            return kind
    return None


def predict(engine: Engine, name: str, call: Call, limits: Limits, pinned: str | None) -> Reply:
    """Answer ``/predict/{endpoint}`` where the body, or the answer that is asked for, is a table."""
    endpoint = engine.endpoint(name)
    sent = form(call.headers.get(b"content-type", b""))
    if sent is None:
        request = read_predict(call.body, limits)
    else:
        request = PredictRequest(read(sent, call.body, endpoint.arms[0].signature, limits), call.header(UNIT))
    answered = engine.answer(endpoint, request, None if sent else call.body, call.trace, pinned)
    wanted = form(call.headers.get(b"accept", b""))
    return Reply(engine.say(answered), JSON, endpoint=name, predicted=True) if wanted is None else written(wanted, answered)


def read(kind: bytes, body: bytes, signature: Signature, limits: Limits) -> Columns:
    """Return the rows of a body in one of the forms."""
    if kind == NPY:
        return npy.read(body, asked(signature), limits)
    from kaizenml.serving.dialects import arrow

    return arrow.read(body, limits)


def written(kind: bytes, answered: Answered) -> Reply:
    """Return the answer in one of the forms: ``id``, ``value``, ``probabilities`` (one for each class), ``decided_by``.

    Where rules decided row by row also ``reason`` and ``release``. The release, the arm and the classes stand in headers; in an
    Arrow schema's metadata also the lineage. The value of a refused row is null in Arrow, NaN or an empty text in NPY.

    Raises
    ------
    Refused : a rule refused a row, and NPY has nothing that could not be read as an answer.
    """
    decision, route, signature = answered.decision, answered.arm.route, answered.arm.signature
    values: list[Any] = [prediction.value for prediction in decision.predictions]
    refused = tensors.refused_rows(answered)
    if refused and kind == NPY and tensors.blank_of(signature) is None:
        raise tensors.no_answer(answered, refused[0], "take the answer as an Arrow stream or JSON, leave the row out")
    for position in refused:
        values[position] = _BLANKS[tensors.answer_type(signature)]
    columns: dict[str, Any] = {"id": np.array(answered.ids), "value": np.array(values)}
    if signature.task != "regression":
        missing = [np.nan] * len(signature.classes)
        columns["probabilities"] = np.array([prediction.probabilities or missing for prediction in decision.predictions], np.float64)
    if decision.rows is None:
        columns["decided_by"] = np.array([decision.decided_by] * len(answered.ids))
    else:
        columns["decided_by"] = np.array([by.decided_by for by in decision.rows])
        columns["reason"] = np.array([by.reason or "" for by in decision.rows])
        columns["release"] = np.array([by.release or route.release for by in decision.rows])
    classes = msgspec.json.encode(signature.classes).decode()
    told = {"release": route.release, "arm": route.arm, "classes": classes}
    headers = tuple((f"x-kaizen-{name}".encode(), _header(value)) for name, value in told.items()) + unjournaled(answered)
    name = answered.endpoint.route.endpoint
    if kind == NPY:
        return Reply(npy.write(columns), NPY, headers, endpoint=name, predicted=True)
    from kaizenml.serving.dialects import arrow

    told |= {"lineage": msgspec.json.encode(route.lineage).decode(), "reason": decision.reason or ""}
    return Reply(arrow.write(columns, told, absent={"value": refused}), ARROW, headers, endpoint=name, predicted=True)


def _header(value: str) -> bytes:
    return value.encode("ascii", "backslashreplace")  # a class may be any text, a header only plain ones
