"""Which engine puts features beside rows: this process, or Spark where a project says so."""

from __future__ import annotations

from pathlib import Path

from kaizenml.errors import MissingExtra, Unavailable
from kaizenml.ports import FrameEngine


def open_frames(engine: str, scratch: Path) -> FrameEngine:
    """Open the engine that ``[project] engine`` or ``--engine`` names.

    Parameters
    ----------
    engine : ``spark``.
    scratch : a folder for what it needs on the way.

    Raises
    ------
    MissingExtra : its library is not installed.
    Unavailable : it does not start.
    """
    assert engine == "spark"  # the settings and the operation take no other
    try:
        from kaizenml.adapters.spark import SparkFrames
    except ImportError:
        raise MissingExtra("Spark is not installed", remedy="pip install 'kaizenml[spark]', and Java 17 or newer") from None
    try:
        return SparkFrames(scratch)
    except Exception as error:  # pyspark has no one class for a missing Java, a master that does not answer, settings that do not fit
        remedy = "install Java 17 or newer (JAVA_HOME), and see SPARK_CONF_DIR where Spark runs on a cluster"
        raise Unavailable(f"Spark does not start: {str(error)[:300]}", remedy=remedy, values={"engine": engine}) from error
