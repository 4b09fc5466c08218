"""Excel and OpenDocument workbooks: the first sheet with rows, as a table with its first row as header."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pyarrow as pa

from kaizenml.data.kinds import check_names
from kaizenml.errors import InvalidData, MissingExtra


def read_excel(raw: bytes, name: str) -> pa.Table:
    """Read a workbook.

    Returns
    -------
    The first sheet that has rows. A column is what all of its cells are; one of mixed cells is text.

    Raises
    ------
    MissingExtra : python-calamine is not installed.
    InvalidData : no workbook, locked with a password, no rows below a header, a nameless or doubled column.
    """
    try:
        import python_calamine
    except ImportError:
        raise MissingExtra(f"{name} is a workbook, and what reads these is not installed", remedy="pip install 'kaizenml[excel]'") from None
    try:
        book = python_calamine.load_workbook(io.BytesIO(raw))
        sheets = [book.get_sheet_by_name(sheet).to_python(skip_empty_area=True) for sheet in book.sheet_names]
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise InvalidData(
            f"{name} cannot be read as a workbook: {error}", remedy="open and save it again without a password, or export it as CSV",
            values={"size_bytes": len(raw), "reason": str(error)[:300]},
        ) from None  # fmt: skip
    rows = next((sheet for sheet in sheets if len(sheet) > 1), None)
    if rows is None:
        what = f"no sheet of {name} has a row below a header"
        raise InvalidData(what, remedy="give a sheet with a header and rows", values={"sheets": len(sheets)})
    header = [str(cell) for cell in rows[0]]
    check_names(header)
    filled = [row for row in rows[1:] if any(cell not in ("", None) for cell in row)]
    return pa.table({column: _column([row[place] for row in filled]) for place, column in enumerate(header)})


def _column(cells: list[Any]) -> pa.Array:
    values = [None if cell in ("", None) else cell for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        # a workbook knows only one kind of number
        whole = all(value is None or (float(value).is_integer() and abs(value) < 2**53) for value in values)
        return pa.array([None if value is None else int(value) if whole else float(value) for value in values])
    if kinds <= {dt.date, dt.datetime}:
        moments = [dt.datetime.combine(value, dt.time()) if type(value) is dt.date else value for value in values]
        return pa.array(moments, pa.timestamp("us"))
    if len(kinds) == 1 and kinds <= {bool, str}:
        return pa.array(values)
    if kinds == {dt.timedelta}:
        return pa.array(values, pa.duration("us"))
    return pa.array([None if value is None else _written(value) for value in values], pa.string())


def _written(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)
