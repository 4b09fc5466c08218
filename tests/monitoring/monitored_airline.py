"""A small airline: real project, real model, real release, real tables; days of traffic with faults to choose."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.features.encoding import vectorised as encoding
from kaizenml.monitoring import operations as monitoring
from kaizenml.releases import operations as releases
from kaizenml.serving.ids import Ids, project_key
from kaizenml.serving.journaling import predictions
from kaizenml.serving.outcomes import Outcome, OutcomeStore
from kaizenml.training import model_file, scoring

START = datetime(2026, 1, 1, tzinfo=UTC)
TRAINED_DAYS = 60
PER_DAY = 250
TOML = """
[project]
name = "air"
[task]
dataset = "trips"
target = "late"
time = "at"
key = "trip"
asked_before = "1h"
[features.weather]
dataset = "weather"
entity = "origin"
columns = ["temp", "wind", "humid"]
at = "time"
ttl = "6h"
"""

Change = Callable[[dict[str, np.ndarray], np.random.Generator], None]


def truth(rows: dict[str, np.ndarray], *, concept: float = 0.0) -> np.ndarray:
    """The real probability of being late."""
    load = 1.2 * (rows["wind"] - 10) / 5 + 0.8 * (rows["distance"] - 800) / 400 + 0.9 * (rows["carrier"] == "C") - 1.0
    return 1 / (1 + np.exp(-(load * (1 - concept) + concept * (1.5 - load))))


def inputs(day: int, rng: np.random.Generator, rows: int = PER_DAY) -> dict[str, np.ndarray]:
    """One day's trips with the weather of their hour and place."""
    base = START + timedelta(days=day)
    hour = rng.integers(5, 23, rows)
    origin = rng.choice(["E", "J", "L"], rows)
    mood = np.random.default_rng(1000 + day)  # the weather of a day is one weather
    wind = {place: 10 + mood.normal(0, 2) + mood.normal(0, 2, 24) for place in "EJL"}
    temp = {place: 40 + 8 * np.sin(day / 9) + mood.normal(0, 4) + mood.normal(0, 2, 24) for place in "EJL"}
    humid = {place: 60 + mood.normal(0, 8, 24) for place in "EJL"}
    at = np.array(
        [int((base + timedelta(hours=int(h), seconds=int(s))).timestamp() * 1e6) for h, s in zip(hour, rng.integers(0, 3600, rows), strict=True)]
    )
    return {
        "at": at,
        "hour": hour,
        "origin": origin,
        "carrier": rng.choice(["A", "B", "C", "D"], rows, p=[0.4, 0.3, 0.2, 0.1]),
        "distance": rng.gamma(4, 200, rows),
        "wind": np.array([wind[o][h - 1] for o, h in zip(origin, hour, strict=True)]),
        "temp": np.array([temp[o][h - 1] for o, h in zip(origin, hour, strict=True)]),
        "humid": np.array([humid[o][h - 1] for o, h in zip(origin, hour, strict=True)]),
    }


def weather_rows(days: range) -> pa.Table:
    parts: dict[str, list[Any]] = {"origin": [], "time": [], "temp": [], "wind": [], "humid": []}
    for day in days:
        mood = np.random.default_rng(1000 + day)
        wind = {place: 10 + mood.normal(0, 2) + mood.normal(0, 2, 24) for place in "EJL"}
        temp = {place: 40 + 8 * np.sin(day / 9) + mood.normal(0, 4) + mood.normal(0, 2, 24) for place in "EJL"}
        humid = {place: 60 + mood.normal(0, 8, 24) for place in "EJL"}
        for place in "EJL":
            for hour in range(24):
                parts["origin"].append(place)
                parts["time"].append(START + timedelta(days=day, hours=hour))
                parts["temp"].append(temp[place][hour])
                parts["wind"].append(wind[place][hour])
                parts["humid"].append(humid[place][hour])
    return pa.table(
        parts,
        schema=pa.schema([("origin", pa.string()), ("time", pa.timestamp("us", tz="UTC")), *((n, pa.float64()) for n in ("temp", "wind", "humid"))]),
    )


class Air:
    """The project, and what can happen to it."""

    def __init__(self, ctx: Context, clock: SimulatedClock, champion: str, after: Air | None = None) -> None:
        """Open it; ``after``: what happened to the project that it is a copy of."""
        self.ctx, self.clock, self.champion = ctx, clock, champion
        self.rng = copy.deepcopy(after.rng) if after else np.random.default_rng(7)
        self.batch = after.batch if after else 0
        self.day = after.day if after else TRAINED_DAYS
        self.labels: dict[str, bool] = dict(after.labels) if after else {}
        self.written: list[pa.Table] = list(after.written) if after else []
        self.ids = Ids(project_key(ctx.state), boot=f"{self.day:08x}")  # another process gives other ids
        self.store = OutcomeStore(ctx.state, self.ids, window_s=90 * 86_400)

    def model(self, release: str) -> Path:
        return self.ctx.state / releases.show(self.ctx, release).bundle / "model"

    def score(self, rows: dict[str, np.ndarray], release: str) -> np.ndarray:
        folder = self.model(release)
        table = pa.table(
            {
                "at": pa.array(rows["at"], pa.timestamp("us", tz="UTC")),
                "origin": pa.array(rows["origin"]),
                "carrier": pa.array(rows["carrier"]),
                "distance": pa.array(rows["distance"]),
                **{f"weather_{name}": pa.array(rows[name], from_pandas=True) for name in ("temp", "wind", "humid")},
            }
        )
        return scoring.predict(folder, encoding.encode(model_file.read(folder).encoder, table))

    def table(
        self, rows: dict[str, np.ndarray], ids: list[str], chances: np.ndarray, *, release: str, role: str, arm: str, decided_by: str = "model"
    ) -> pa.Table:
        count = len(ids)
        at = pa.array(rows["at"], pa.timestamp("us", tz="UTC"))
        columns: dict[str, Any] = {
            "id": ids, "at": at, "day": [datetime.fromtimestamp(t / 1e6, UTC).strftime("%Y-%m-%d") for t in rows["at"].tolist()],
            "_batch": pa.array([self.batch] * count, pa.int64()), "role": [role] * count, "release": [release] * count, "arm": [arm] * count,
            "decided_by": [decided_by] * count, "reason": pa.nulls(count, pa.string()), "unit": pa.nulls(count, pa.string()),
            "value": ["true" if p > 0.5 else "false" for p in chances[:, 1]], "score": chances[:, 1],
            "probabilities": pa.array(chances.tolist(), pa.list_(pa.float64())),
        }  # fmt: skip
        live = role == "live"
        columns["x_at"] = at if live else pa.nulls(count, at.type)
        columns["x_trip"] = pa.array([f"t{identity[:20]}" if live else None for identity in ids], pa.string())
        for name in ("origin", "carrier"):
            columns[f"x_{name}"] = pa.array(rows[name].tolist() if live else [None] * count, pa.string())
        for name in ("distance", "weather_temp", "weather_wind", "weather_humid"):
            values = rows[name.removeprefix("weather_")].astype(float) if live else np.full(count, np.nan)
            columns[f"x_{name}"] = pa.array(values, pa.float64(), from_pandas=True)
        return pa.table(columns)

    def write(self, *tables: pa.Table) -> None:
        """Append one drain's worth of rows, as the drain does."""
        path = predictions.folder(self.ctx.state, "air")
        if not path.exists():
            path.mkdir(parents=True)
            DeltaTable.create(path, schema=predictions.BASE, partition_by=["day"])
        self.batch += 1
        rows = pa.concat_tables(tables)
        rows = rows.set_column(rows.column_names.index("_batch"), "_batch", pa.array([self.batch] * rows.num_rows, pa.int64()))
        properties = CommitProperties(app_transactions=[Transaction(predictions.BATCHES, self.batch)])
        write_deltalake(path, rows, mode="append", partition_by=["day"], schema_mode="merge", commit_properties=properties)
        self.written.append(rows)

    def tell(self, labels: dict[str, Any]) -> None:
        """Send outcomes, as the server takes them."""
        signature = model_file.read(self.model(self.champion)).signature
        self.store.take("air", [Outcome(id=key, value=value) for key, value in labels.items()], [signature], self.clock.timestamp())
        self.labels |= labels

    def live_day(
        self, *, change: Change | None = None, change_truth: Change | None = None, concept: float = 0.0,
        labels: Callable[[np.ndarray], np.ndarray | None] | None = None,
        shadows: tuple[str, ...] = (), shadow_scores: Callable[[np.ndarray], np.ndarray] | None = None, rows: int = PER_DAY,
    ) -> list[str]:  # fmt: skip
        """Live one day: answer, write, set the clock to the next midnight, tell the outcomes, observe.

        ``change`` alters what the model sees, ``change_truth`` the world itself (before it is seen).
        """
        world = inputs(self.day, self.rng, rows)
        if change_truth:
            change_truth(world, self.rng)
        late = self.rng.random(rows) < truth(world, concept=concept)
        seen = {name: values.copy() for name, values in world.items()}
        if change:
            change(seen, self.rng)
        ids = [self.ids.make(t / 1e6, 1)[0] for t in seen["at"].tolist()]
        chances = self.score(seen, self.champion)
        parts = [self.table(seen, ids, chances, release=self.champion, role="live", arm="champion")]
        for shadow in shadows:
            other = shadow_scores(chances) if shadow_scores else self.score(seen, shadow)
            parts.append(self.table(seen, ids, other, release=shadow, role="shadow", arm="shadow"))
        self.write(*parts)
        self.day += 1
        self.clock.set(START + timedelta(days=self.day, minutes=5))
        told = labels(late) if labels else late
        if told is not None:
            self.tell({identity: bool(value) for identity, value in zip(ids, told, strict=True)})
        return ids

    def watch(self) -> monitoring.Diagnosis:
        monitoring.observe(self.ctx, "air")
        return monitoring.diagnose(self.ctx, "air")


def calm(air: Air, days: int) -> None:
    for _ in range(days):
        air.live_day()
        found = air.watch()
        assert found.label in ("healthy", "waiting"), found
