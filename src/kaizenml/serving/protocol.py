"""What a request may look like, and what is said when it does not. Hot path: imports only msgspec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kaizenml.errors import InvalidInput, KaizenError, TooLarge, UsageError, nearest
from kaizenml.features.encoding.records import Records, RecordType
from kaizenml.serving.outcomes import Outcome

_SHOWN = 100  # characters of a wrong value
UNIT_LONGEST = 1000
_EXPLAINED = 1_000_000  # bytes whose nesting is counted: who sends more brackets is not to hold up everybody else


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a request may be."""

    body_bytes: int = 8_000_000
    rows: int = 10_000
    depth: int = 64


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /predict/{endpoint}``. Values are plain: nesting of any depth ends the decoding at once."""

    inputs: Sequence[dict[str, str | int | float | bool | None]]  # of a large body that came as columns: Columns
    unit: str | int | None = None


class OutcomesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """``POST /outcomes/{endpoint}``."""

    outcomes: list[Outcome]


class MethodNotAllowed(UsageError):
    """The path is there, the method is not."""

    code, status = "method_not_allowed", 405


class UnsupportedMedia(UsageError):
    """The body is not JSON as it stands."""

    code, status = "unsupported_media", 415


_decode_predict = msgspec.json.Decoder(PredictRequest).decode
_decode_outcomes = msgspec.json.Decoder(OutcomesRequest).decode


ReadRecords = Callable[[bytes], PredictRequest]
"""Decodes a request whose rows are records; raises what msgspec raises."""


def reader(kind: RecordType) -> ReadRecords:
    """Return what decodes requests whose rows are records of ``kind``."""
    fields: list[Any] = [("inputs", list[kind.struct]), ("unit", str | int | None, None)]  # type: ignore[name-defined]
    decode = msgspec.json.Decoder(msgspec.defstruct("RecordsRequest", fields, forbid_unknown_fields=True)).decode

    def read(body: bytes) -> PredictRequest:
        request: Any = decode(body)
        return PredictRequest(Records(kind, request.inputs), request.unit)

    return read


def read_predict(body: bytes, limits: Limits, read_records: ReadRecords | None = None) -> PredictRequest:
    """Decode a request for predictions.

    Parameters
    ----------
    body : as it came.
    limits : how large it may be.
    read_records : the quick way (``reader``) where there is one; what it does not take goes the general way.

    Raises
    ------
    InvalidInput : not JSON, or not of this form; names row, field and value where there are any.
    TooLarge : too many rows, or nested too deep.
    """
    try:
        request = _read(body, read_records)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explained(body, limits, error, "inputs") from None
    check_rows(len(request.inputs), limits, "inputs")
    if request.unit is not None and not 0 < len(str(request.unit)) <= UNIT_LONGEST:
        remedy = "leave it out, or send a customer's or session's key"
        raise InvalidInput(f"unit is empty or longer than {UNIT_LONGEST}", remedy=remedy, values={"field": "unit"})
    return request


def _read(body: bytes, read_records: ReadRecords | None) -> PredictRequest:
    if read_records is not None:
        try:
            return read_records(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # perhaps it fits in another way, and if not, the general way says why
    return _decode_predict(body)


def read_outcomes(body: bytes, limits: Limits) -> list[Outcome]:
    """Decode a request that tells outcomes; raises as ``read_predict``."""
    try:
        found = _decode_outcomes(body).outcomes
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _explained(body, limits, error, "outcomes") from None
    check_rows(len(found), limits, "outcomes")
    return found


def check_rows(rows: int, limits: Limits, field: str) -> None:
    """Raise InvalidInput when there is no row in ``field``, TooLarge when there are too many."""
    if 0 < rows <= limits.rows:
        return
    if rows == 0:
        raise InvalidInput(f"{field} is empty", remedy=f'send {{"{field}": [{{...}}]}} with one row at least', values={"field": field, "rows": 0})
    remedy = f"send at most {limits.rows:,} at once, or raise max_rows under [serve] in kaizen.toml"
    raise TooLarge(f"{rows:,} rows in {field}; the limit is {limits.rows:,}", remedy=remedy, values={"rows": rows, "limit": limits.rows})


_FORM = {"inputs": '{"inputs": [{"column": value, ...}]}', "outcomes": '{"outcomes": [{"id": "...", "value": ...}]}'}


def _explained(body: bytes, limits: Limits, error: Exception, field: str) -> KaizenError:
    """Say what is wrong with a body that the typed decoder refused. Slow and thorough: only errors come here."""
    remedy = f"send {_FORM[field]}"
    if not body.strip():
        return InvalidInput("the body is empty", remedy=remedy, values={"field": None})
    depth = _depth(body[:_EXPLAINED])
    if depth > limits.depth:
        values = {"depth": depth, "limit": limits.depth}
        return TooLarge(f"the body is nested {depth} deep; the limit is {limits.depth}", remedy=remedy, values=values)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as wrong:
        return _not_json(body, str(wrong), remedy)
    if not isinstance(document, dict):
        seen = {"found": _kind(document), "expected": "an object"}
        return InvalidInput(f"the body is {_kind(document)}, not an object", remedy=remedy, values=seen)
    return _misfit(document, field, remedy) or InvalidInput(f"the body does not fit: {error}", remedy=remedy, values={"field": field})


def _not_json(body: bytes, text: str, remedy: str) -> InvalidInput:
    for word in (b"NaN", b"Infinity"):
        if word in body and "invalid character" in text:
            values = {"found": word.decode()}
            return InvalidInput(f"the body holds {word.decode()}, which is not JSON", remedy="send null where a value is not known", values=values)
    if "out of range" in text:
        values = {"problem": text}
        return InvalidInput("the body holds a number beyond what a double can hold", remedy="send null where a value is not known", values=values)
    # the decoder's sentences begin with a capital or with JSON
    said = text if text.startswith("JSON") else text[:1].lower() + text[1:]
    return InvalidInput(f"the body is not JSON: {said[:200]}", remedy=remedy, values={"problem": text[:200]})


def _misfit(document: dict[str, Any], field: str, remedy: str) -> InvalidInput | None:
    values: dict[str, Any]
    known = ["inputs", "unit"] if field == "inputs" else ["outcomes"]
    for name in document:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            values = {"field": name[:_SHOWN], "nearest": close, "known": known}
            return InvalidInput(f"{name[:_SHOWN]!r} is not known here{hint}", remedy=remedy, values=values)
    if field not in document:
        return InvalidInput(f"{field!r} is missing", remedy=remedy, values={"field": field, "found": None})
    rows = document[field]
    if not isinstance(rows, list):
        values = {"field": field, "found": _kind(rows), "expected": "a list"}
        return InvalidInput(f"{field} is {_kind(rows)}, not a list", remedy=remedy, values=values)
    for position, row in enumerate(rows):
        if not isinstance(row, dict):
            values = {"row": position, "found": _kind(row), "expected": "an object"}
            return InvalidInput(f"{field}[{position}] is {_kind(row)}, not an object", remedy=remedy, values=values)
        wrong = _wrong_input(row, position) if field == "inputs" else _wrong_outcome(row, position)
        if wrong:
            return wrong
    unit = document.get("unit")
    if unit is not None and (not isinstance(unit, str | int) or isinstance(unit, bool)):
        values = {"field": "unit", "found": _kind(unit)}
        return InvalidInput(f"unit is {_kind(unit)}, not text", remedy='send "unit": "customer-7" or leave it out', values=values)
    return None


def _wrong_input(row: dict[str, Any], position: int) -> InvalidInput | None:
    for name, value in row.items():
        if isinstance(value, list | dict):
            values = {"row": position, "field": name[:_SHOWN], "found": _kind(value), "expected": "a plain value"}
            shown = f"inputs[{position}].{name[:_SHOWN]}"
            return InvalidInput(f"{shown} is {_kind(value)}, not a plain value", remedy="send text, a number, true, false or null", values=values)
    return None


def _wrong_outcome(row: dict[str, Any], position: int) -> InvalidInput | None:
    expected = {"id": (str,), "value": (str, int, float, bool, type(None)), "at": (str, int, float, type(None))}
    remedy = 'send {"id": "...", "value": ..., "at": "2026-03-01T12:30:00Z"}; "at" may be left out'
    for name in row:
        if name not in expected:
            close = nearest(name, expected)
            values = {"row": position, "field": name[:_SHOWN], "nearest": close}
            hint = f"; did you mean {close!r}?" if close else ""
            return InvalidInput(f"outcomes[{position}].{name[:_SHOWN]} is not known{hint}", remedy=remedy, values=values)
    for name in ("id", "value"):
        if name not in row:
            return InvalidInput(f"outcomes[{position}].{name} is absent", remedy=remedy, values={"row": position, "field": name, "found": None})
    for name, kinds in expected.items():
        if name in row and (not isinstance(row[name], kinds) or (name == "at" and isinstance(row[name], bool))):
            values = {"row": position, "field": name, "found": _kind(row[name])}
            return InvalidInput(f"outcomes[{position}].{name} is {_kind(row[name])}", remedy=remedy, values=values)
    return None


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a number"


def _depth(body: bytes) -> int:
    """Return how deep brackets nest, outside of text."""
    deepest = depth = 0
    inside = escaped = False
    for byte in body:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            deepest = max(deepest, depth)
        elif byte in (0x5D, 0x7D):
            depth -= 1
    return deepest
