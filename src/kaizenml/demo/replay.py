"""April to December, replayed in time order over a real socket, with three things going wrong on purpose."""

from __future__ import annotations

import heapq
import importlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.demo.flights import AFTERWARDS, ASKED_BEFORE, HOUR, Flights
from kaizenml.errors import KaizenError
from kaizenml.features import operations as features
from kaizenml.loop import operations as loop
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

ENDPOINT = "flights"
SEED = 2013
BATCH = 100  # rows a request at most
LOOKS_EVERY = 2  # days
LOOKS_AT = np.timedelta64(9, "h")  # UTC: five in the morning in New York, when nothing departs


@dataclass(frozen=True)
class Plan:
    """When the replay runs and what goes wrong when. Fixed before any model is trained."""

    first: datetime = datetime(2013, 4, 1, tzinfo=UTC)
    last: datetime = datetime(2014, 1, 1, tzinfo=UTC)
    flood: tuple[datetime, datetime] = (datetime(2013, 6, 10, tzinfo=UTC), datetime(2013, 6, 14, tzinfo=UTC))
    kill: tuple[datetime, datetime] = (datetime(2013, 8, 20, 14, tzinfo=UTC), datetime(2013, 8, 20, 20, tzinfo=UTC))
    bad_release: datetime = datetime(2013, 10, 7, tzinfo=UTC)

    def announce(self) -> list[str]:
        """Say beforehand what will go wrong."""
        return [
            f"{self.flood[0]:%d %b} to {self.flood[1]:%d %b}: the weather feed delivers nothing but nulls",
            f"{self.kill[0]:%d %b %H:%M} to {self.kill[1]:%H:%M}: an operator kills the endpoint and revives it",
            f"{self.bad_release:%d %b}: a release learnt from wrong labels is tried on a little traffic",
        ]


@dataclass
class Tally:
    """What the replay counted on its own side of the socket."""

    answered: int = 0
    outcomes: int = 0
    requests: int = 0
    sample: list[str] = field(default_factory=list)  # a few prediction ids, to trace one


class Replay:
    """Plays the year against a running server."""

    def __init__(self, ctx: Context, clock: SimulatedClock, flights: Flights, client: Client, *, plan: Plan, say: Callable[[str], None]) -> None:
        self.ctx, self.clock, self.client, self.plan, self.say = ctx, clock, client, plan, say
        self.flights = flights
        self.tally = Tally()
        self._rng = np.random.default_rng(SEED)
        self._waiting: list[tuple[float, int, str, bool]] = []  # outcomes on their way: due, tie-break, id, late
        self._outcome_number = 0
        self._looks = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_open_in_loop, initargs=(ctx.root, clock.path))
        self._looking: Future[None] | None = self._looks.submit(_prepare)  # while the rows to ask are laid out here
        self._select(flights)

    def _select(self, flights: Flights) -> None:
        first, last = np.datetime64(self.plan.first.replace(tzinfo=None)), np.datetime64(self.plan.last.replace(tzinfo=None))
        lo, hi = np.searchsorted(flights.departs, [first, last])
        self.table = flights.table.slice(lo, hi - lo)
        self.departs, self.lands = flights.departs[lo:hi], flights.lands[lo:hi]
        self.late = self.table["late"].to_pylist()
        self.hours: np.ndarray = self.departs.astype("datetime64[h]") - ASKED_BEFORE  # when each batch is asked

    def days(self) -> Iterator[datetime]:
        """Play one simulated day after the other; yield each when it is over."""
        rows = self._rows()
        since = np.datetime64(self.plan.first.replace(tzinfo=None)) - 2 * HOUR  # what was known by then is in the datasets
        weather = _by_hour(self.flights.weather, "time_hour", since)
        departures, landings = _by_hour(self.flights.departures, "left", since), _by_hour(self.flights.landings, "landed", since)
        starts = np.flatnonzero(np.r_[True, self.hours[1:] != self.hours[:-1]])
        batches = {self.hours[a]: (a, b) for a, b in itertools.pairwise([*starts.tolist(), len(self.hours)])}
        hour, end = np.datetime64(self.plan.first.replace(tzinfo=None), "h") - HOUR, np.datetime64(self.plan.last.replace(tzinfo=None), "h")
        days, tried_bad = 0, False
        while hour < end:
            now = hour.astype(datetime).replace(tzinfo=UTC)
            self.clock.set(now)
            self._operator(now)
            self._push_weather(weather.get(hour, []), now)
            self._push_delays(departures.get(hour, []), landings.get(hour, []))
            if hour in batches:
                self._ask(rows, *batches[hour], now)
            if not tried_bad and now >= self.plan.bad_release:
                self._try_bad_release()
                tried_bad = True
            hour += HOUR
            if (hour - LOOKS_AT).astype("datetime64[D]") == hour - LOOKS_AT:
                self.clock.set(hour.astype(datetime).replace(tzinfo=UTC))
                self._report_outcomes(hour)
                days += 1
                if days % LOOKS_EVERY == 0:
                    self._look()
                yield now

    def _look(self) -> None:
        """Let the loop, a process of its own, look at what is over while the next day begins; it never lags further behind."""
        self._await_look()
        self._looking = self._looks.submit(_tick)

    def _await_look(self) -> None:
        if self._looking:
            self._looking.result()

    def _rows(self) -> list[dict[str, Any]]:
        known = self.table.drop_columns([*AFTERWARDS, "late", "departs"])
        stamps = pc.strftime(self.table["departs"], format="%Y-%m-%dT%H:%M:%SZ")
        rows: list[dict[str, Any]] = known.append_column("departs", stamps).to_pylist()
        return rows

    def _operator(self, now: datetime) -> None:
        operator = self.ctx.acting_as("operator")
        if now == self.plan.kill[0]:
            rollouts.kill(operator, ENDPOINT, why="drill: answers look wrong to the duty manager")
            self.say("the operator killed the endpoint; it answers naively until it is revived")
        elif now == self.plan.kill[1]:
            rollouts.revive(operator, ENDPOINT, why="drill over")
            self.say("the operator revived the endpoint")

    def _push_weather(self, rows: list[dict[str, Any]], now: datetime) -> None:
        if self.plan.flood[0] <= now < self.plan.flood[1]:
            rows = [{name: value if name in ("origin", "time_hour") else None for name, value in row.items()} for row in rows]
        if rows:
            features.push(self.ctx, "weather", rows)

    def _push_delays(self, departures: list[dict[str, Any]], landings: list[dict[str, Any]]) -> None:
        """Push the flights that left or landed in the hour before."""
        if departures:
            features.push(self.ctx, "of_carrier", departures)
            of_origin = [{name: value for name, value in row.items() if name != "carrier"} for row in departures]
            features.push(self.ctx, "at_origin", of_origin, offline=False)  # the same rows: the dataset has them by now
        if landings:
            features.push(self.ctx, "at_destination", landings)

    def _ask(self, rows: list[dict[str, Any]], start: int, stop: int, now: datetime) -> None:
        for low in range(start, stop, BATCH):
            high = min(low + BATCH, stop)
            answer = self.client.predict(ENDPOINT, rows[low:high])
            self.tally.requests += 1
            self.tally.answered += high - low
            ids = [prediction["id"] for prediction in answer["predictions"]]
            if len(self.tally.sample) < 5 or self.tally.requests % 500 == 0:
                self.tally.sample.append(ids[0])
            self._await_outcomes(ids, low)

    def _await_outcomes(self, ids: list[str], low: int) -> None:
        """Landings are reported after a while: two hours on average, now and then days."""
        delays = self._rng.exponential(7200.0, len(ids)) + np.where(self._rng.random(len(ids)) < 0.02, self._rng.uniform(0, 5 * 86400, len(ids)), 0)
        landed = self.lands[low : low + len(ids)]
        for index, prediction in enumerate(ids):
            if np.isnat(landed[index]):
                continue  # cancelled: nobody will ever say
            due = landed[index].astype("datetime64[ms]").astype(float) / 1000 + delays[index]
            self._outcome_number += 1
            heapq.heappush(self._waiting, (due, self._outcome_number, prediction, self.late[low + index]))

    def _report_outcomes(self, until: np.datetime64) -> None:
        moment = until.astype("datetime64[s]").astype(float)
        due: list[dict[str, Any]] = []
        while self._waiting and self._waiting[0][0] <= moment:
            _, _, prediction, late = heapq.heappop(self._waiting)
            due.append({"id": prediction, "value": late})
        self._rng.shuffle(due)  # out of order
        for low in range(0, len(due), 1000):
            self.client.outcomes(ENDPOINT, due[low : low + 1000])
        self.tally.outcomes += len(due)

    def _try_bad_release(self) -> None:
        """Somebody trained on swapped labels and skipped the gates that would have told."""
        person = self.ctx.acting_as("hasty-colleague")
        champion = releases.show(self.ctx, rollouts.show(self.ctx, ENDPOINT).champion)
        recipe = registry.show(self.ctx, champion.pins.model).run
        recent = tables.read(self.ctx, "flights").slice(0, 60_000)
        swapped = recent.set_column(recent.schema.get_field_index("late"), "late", pc.invert(recent["late"]))
        try:
            data.add(person, "flights-swapped", table=swapped, why="drill: labels swapped on purpose", key="flight_id", time="departs")
            run = training.train(person, dataset="flights-swapped", refit=recipe)
            model = registry.register(person, run.id, name="flights")
            why = "drill: a hasty release, its accuracy gates skipped"
            release = releases.create(person, model.ref, against=champion.ref, why=why, skip=["naive", "champion", "load"])
            rollouts.challenge(person, ENDPOINT, release.ref, weight=0.05, why=why)
            self.say(f"{release.ref}, learnt from swapped labels, got 5 % of the traffic")
        except KaizenError as error:
            self.say(f"the bad release did not even start: {error.what}")

    def finish(self) -> None:
        """Deliver the outcomes that are still on their way, and let the loop look once more."""
        self._await_look()  # else it would find itself six days later, without a prediction in them
        end = np.datetime64(self.plan.last.replace(tzinfo=None)) + np.timedelta64(6, "D")
        self.clock.set(end.astype(datetime).replace(tzinfo=UTC))
        self._report_outcomes(end)
        self._look()
        self._await_look()

    def close(self) -> None:
        """End the loop's process."""
        self._looks.shutdown(cancel_futures=True)


_LOOP: dict[str, Context] = {}  # the project as the loop's process has it open


def _open_in_loop(root: Path, clock: Path) -> None:
    _LOOP["ctx"] = open_project(root, actor="loop", clock=SimulatedClock(clock))


def _prepare() -> None:
    """Load the learners' libraries, which the first look needs."""
    importlib.import_module("kaizenml.training.making")


def _tick() -> None:
    loop.tick(_LOOP["ctx"])


def _by_hour(table: pa.Table, when: str, since: np.datetime64) -> dict[np.datetime64, list[dict[str, Any]]]:
    """Return the rows after ``since`` of a table in order of time, with their times as text, by the full hour at which they are known."""
    table = table.slice(int(np.searchsorted(table[when].to_numpy(), since, side="right")))
    hours = (table[when].to_numpy() + (HOUR - np.timedelta64(1, "us"))).astype("datetime64[h]")
    starts = np.flatnonzero(np.r_[True, hours[1:] != hours[:-1]]).tolist()
    stamps = pc.strftime(pc.cast(table[when], pa.timestamp("s", "UTC")), format="%Y-%m-%dT%H:%M:%SZ")
    rows = table.set_column(table.schema.get_field_index(when), when, stamps).to_pylist()
    return {hours[a]: rows[a:b] for a, b in itertools.pairwise([*starts, len(rows)])}
