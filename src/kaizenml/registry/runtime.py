"""What a model runtime must give: the one protocol behind which every kind of model file answers. One file for each kind beside this one.

A new kind is a class in a file of its own and a line in ``runtimes.KINDS``. Hot path: imports only the standard library and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kaizenml.training.model_file import Member, ModelSpec

Row = Mapping[str, Any]
Takes = Literal["vectors", "wide", "rows"]


class Runtime(Protocol):
    """One loaded model file. For one thread at a time.

    It is given vectors (what the encoder makes of rows) or, where it makes its own of them, the rows themselves, checked
    against the signature. It gives outputs: for a class its probability, one for each, or for two classes the second's alone;
    for regression the number.
    """

    takes: Takes
    """What ``one`` and ``many`` are given: vectors of float32, ``wide`` ones of float64, or rows."""
    blocks: bool
    """An answer may take long, or never come: not to be waited for on the event loop."""
    batches: bool
    """Many rows at once cost much less than each by itself, so that rows of several requests are worth putting together."""

    def one(self, given: Any) -> list[float]:
        """Return the outputs for one vector (a list of floats) or row."""
        ...

    def many(self, given: Any) -> NDArray[np.float64]:
        """Return (rows, outputs) for vectors (C-contiguous, (rows, width)) or a sequence of rows."""
        ...

    def close(self) -> None:
        """Give memory and processes back. A second call does nothing."""
        ...


Loader = Callable[[Path, Member, ModelSpec], Runtime]
"""Makes a runtime of a member's file. Raises Corrupt when the file is not whole, MissingExtra when its library is not installed."""

