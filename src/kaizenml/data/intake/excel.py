"""Excel and OpenDocument workbooks: one sheet, as a table with its first row as header."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pyarrow as pa

from kaizenml.data.kinds import check_names
from kaizenml.errors import InvalidData, MissingExtra, not_found


def read_excel(raw: bytes, name: str, sheet: str | None = None) -> pa.Table:
    """Read a workbook.

    Parameters
    ----------
    sheet : which one; None where only one has rows.

    Returns
    -------
    The sheet's rows. A column is what all of its cells are; one of mixed cells is text.

    Raises
    ------
    MissingExtra : python-calamine is not installed.
    InvalidData : no workbook, locked with a password, no rows below a header, a nameless or doubled column; several sheets with rows, and
        nothing says which.
    NotFound : no such sheet; names the nearest.
    """
    try:
        import python_calamine
    except ImportError:
        raise MissingExtra(f"{name} is a workbook, and what reads these is not installed", remedy="pip install 'kaizenml[excel]'") from None
    try:
        book = python_calamine.load_workbook(io.BytesIO(raw))
        if sheet is not None and sheet not in book.sheet_names:
            raise not_found(f"sheet of {name}", sheet, book.sheet_names, remedy="name one of its sheets")
        names = book.sheet_names if sheet is None else [sheet]
        sheets = {each: book.get_sheet_by_name(each).to_python(skip_empty_area=True) for each in names}
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        raise InvalidData(
            f"{name} cannot be read as a workbook: {error}", remedy="open and save it again without a password, or export it as CSV",
            values={"size_bytes": len(raw), "reason": str(error)[:300]},
        ) from None  # fmt: skip
    filled_ones = [each for each, cells in sheets.items() if len(cells) > 1]
    if not filled_ones:
        what = f"no sheet of {name} has a row below a header" if sheet is None else f"sheet {sheet!r} of {name} has no row below a header"
        raise InvalidData(what, remedy="give a sheet with a header and rows", values={"sheets": book.sheet_names})
    if len(filled_ones) > 1:
        raise InvalidData(
            f"{name} has {len(filled_ones)} sheets with rows: {', '.join(filled_ones[:8])}",
            remedy=f"say which: kaizen data add NAME {name} --query '{filled_ones[0]}'; or save it as a file of its own",
            values={"sheets": filled_ones[:50]},
        )
    rows = sheets[filled_ones[0]]
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
