"""Features: what a model sees of a row, right in time, the same in training and serving."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """The room is also what definitions are decorated with: ``from kaizenml import features`` gives both the one and the other."""

    def __call__(self, **said: Any) -> Callable[[type], Any]:
        """Make a class of aggregates a feature view, see ``define.features``."""
        from kaizenml.features.defining import define

        return define.features(**said)


sys.modules[__name__].__class__ = _Room
