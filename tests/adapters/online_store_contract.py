"""What every online store promises. An adapter's test module subclasses ``OnlineStoreContract`` and gives ``make``.

    class TestSqlite(OnlineStoreContract):
        @pytest.fixture
        def make(self, tmp_path):
            return lambda: SqliteOnlineStore(tmp_path / "online.db")
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest

from kaizenml.ports import OnlineRow, OnlineStore

VIEW = "weather.0123456789ab"


class OnlineStoreContract:
    """Inherit and define the fixture ``make``: a function that opens the same store anew each time."""

    @pytest.fixture
    def make(self) -> Callable[[], OnlineStore]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make: Callable[[], OnlineStore]) -> Iterator[OnlineStore]:
        store = make()
        yield store
        store.close()

    def test_reads_nothing_before_the_first_write(self, store: OnlineStore) -> None:
        assert store.read(VIEW, ["JFK", "LGA"]) == [None, None]
        assert store.read(VIEW, ["JFK"]) == [None]
        assert store.read(VIEW, []) == []

    def test_reads_what_was_written_in_the_order_asked(self, store: OnlineStore) -> None:
        assert store.write(VIEW, [("JFK", 1.5, {"temp": 3.25, "sky": "clear"}), ("LGA", 2.5, {"temp": None, "sky": "fog"})]) == 2
        assert store.read(VIEW, ["LGA", "none", "JFK", "LGA"]) == [
            OnlineRow(2.5, {"temp": None, "sky": "fog"}),
            None,
            OnlineRow(1.5, {"temp": 3.25, "sky": "clear"}),
            OnlineRow(2.5, {"temp": None, "sky": "fog"}),
        ]
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(1.5, {"temp": 3.25, "sky": "clear"})]

    def test_several_views_are_read_together_each_as_alone(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 1.0, {"temp": 1.0}), ("LGA", 2.0, {"temp": 2.0})])
        store.write("spend.0", [("JFK", 3.0, {"sum": 3.0})])
        asked = [(VIEW, ["LGA", "none", "JFK"]), ("empty.0", ["JFK"]), ("spend.0", []), ("spend.0", ["JFK"])]
        assert store.read_many(asked) == [store.read(view, keys) for view, keys in asked]
        assert store.read_many(asked)[3] == [OnlineRow(3.0, {"sum": 3.0})]
        assert store.read_many([(VIEW, [])]) == [[]]
        assert store.read_many([]) == []

    def test_values_of_every_kind_come_back_exactly(self, store: OnlineStore) -> None:
        values = {"f": 0.1 + 0.2, "tiny": 5e-324, "i": 2**63 - 1, "b": True, "t": "snø ☃ 'x'", "none": None, "at": "2013-01-01T05:00:00Z"}
        store.write(VIEW, [("ключ 'x' \u0000 %", 0.0, values)])
        kept = store.read(VIEW, ["ключ 'x' \u0000 %"])[0]
        assert kept is not None
        assert dict(kept.values) == values
        assert type(kept.values["b"]) is bool

    def test_late_rows_never_overwrite_newer_ones(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 10.0, {"temp": 1.0})])
        assert store.write(VIEW, [("JFK", 9.0, {"temp": 0.0})]) == 0
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(10.0, {"temp": 1.0})]
        assert store.write(VIEW, [("JFK", 11.0, {"temp": 2.0}), ("JFK", 10.5, {"temp": 1.5})]) == 1
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(11.0, {"temp": 2.0})]

    def test_a_row_with_the_same_time_is_a_correction(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 10.0, {"temp": 1.0})])
        assert store.write(VIEW, [("JFK", 10.0, {"temp": 1.1})]) == 1
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(10.0, {"temp": 1.1})]

    def test_rows_written_over_others_take_their_place_and_those_that_differ_are_counted(self, store: OnlineStore) -> None:
        keys = [f"k{i}" for i in range(2500)]
        store.write(VIEW, [("k0", 10.0, {"x": 0.5}), ("k1", 10.0, {"x": 1.5}), ("k2", 10.0, {"x": 2.5}), ("other", 10.0, {"x": 9.5})])
        rows = [(key, 5.0 if key == "k0" else 10.0, {"x": place + 0.5 if place < 2 else 7.5, "t": None}) for place, key in enumerate(keys)]
        rows[1] = ("k1", 10.0, {"x": 1.5})
        assert store.write(VIEW, iter(rows), over=True, keep_s=3600.0) == 2499
        assert store.read(VIEW, [*keys, "other"]) == [*(OnlineRow(at, values) for _, at, values in rows), OnlineRow(10.0, {"x": 9.5})]
        assert store.write(VIEW, rows, over=True) == 0
        assert store.write(VIEW, [], over=True) == 0
        assert store.write(VIEW, [("k0", 7.0, {"x": 0.0})]) == 1  # what is newer than what was put there
        assert sorted(store.keys(VIEW)) == sorted([*keys, "other"])

    def test_a_write_over_others_that_fails_leaves_them(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])

        def rows() -> Iterator[tuple[str, float, dict[str, object]]]:
            yield "JFK", 2.0, {"temp": 2.0}
            raise ConnectionError("the source broke off")

        with pytest.raises(ConnectionError):
            store.write(VIEW, rows(), over=True)
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]

    def test_rows_are_returned_whatever_their_age(self, store: OnlineStore) -> None:
        store.write(VIEW, [("old", -5e9, {"x": 1})])
        assert store.read(VIEW, ["old"]) == [OnlineRow(-5e9, {"x": 1})]

    def test_views_and_their_versions_are_apart(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])
        store.write("weather.ffffffffffff", [("JFK", 0.5, {"temp": 9.0})])
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]
        store.drop(VIEW)
        assert store.read(VIEW, ["JFK"]) == [None]
        assert store.read("weather.ffffffffffff", ["JFK"]) == [OnlineRow(0.5, {"temp": 9.0})]

    def test_delete_removes_an_entity_from_every_view(self, store: OnlineStore) -> None:
        store.write(VIEW, [("ann", 1.0, {"x": 1}), ("bob", 1.0, {"x": 2})])
        store.write("spend.000000000000", [("ann", 1.0, {"y": 1})])
        assert store.delete("ann") == 2
        assert store.delete("ann") == 0
        assert store.read(VIEW, ["ann", "bob"]) == [None, OnlineRow(1.0, {"x": 2})]

    def test_an_update_puts_what_was_made_of_a_row_in_its_place_whatever_its_time(self, store: OnlineStore) -> None:
        store.write(VIEW, [("ann", 5.0, {"n": 1}), ("bob", 5.0, {"n": 1}), ("cid", 5.0, {"n": 1})])
        seen: dict[str, OnlineRow | None] = {}

        def change(key: str, row: OnlineRow | None) -> OnlineRow | None:
            seen[key] = row
            return {"ann": OnlineRow(1.0, {"n": 2}), "bob": row, "cid": None, "new": OnlineRow(2.0, {"n": 9}), "none": None}[key]

        assert store.update(VIEW, ["ann", "bob", "cid", "new", "none", "ann"], change) == 3
        assert seen == {key: OnlineRow(5.0, {"n": 1}) for key in ("ann", "bob", "cid")} | {"new": None, "none": None}
        assert store.read(VIEW, ["ann", "bob", "cid", "new"]) == [OnlineRow(1.0, {"n": 2}), OnlineRow(5.0, {"n": 1}), None, OnlineRow(2.0, {"n": 9})]
        assert store.update(VIEW, [], change) == 0

    def test_updates_at_the_same_time_lose_nothing(self, store: OnlineStore) -> None:
        def add(_key: str, row: OnlineRow | None) -> OnlineRow:
            return OnlineRow(0.0, {"n": (row.values["n"] if row else 0) + 1})

        threads = [threading.Thread(target=lambda: [store.update(VIEW, ["a", "b"], add) for _ in range(25)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.read(VIEW, ["a", "b"]) == [OnlineRow(0.0, {"n": 75})] * 2

    def test_an_update_of_many_keys_changes_each_once(self, store: OnlineStore) -> None:
        keys = [f"k{i}" for i in range(2500)]
        assert store.update(VIEW, keys + keys, lambda key, row: OnlineRow(0.0, {"x": key, "before": row is not None})) == 2500
        assert [row and row.values for row in store.read(VIEW, keys)] == [{"x": key, "before": False} for key in keys]

    def test_the_keys_of_a_view_are_its_own(self, store: OnlineStore) -> None:
        assert list(store.keys(VIEW)) == []
        odd = ["", "*", "a:b", "[x]?", "ключ", "\\", f"{VIEW}:y"]
        store.write(VIEW, [(key, 1.0, {}) for key in odd])
        store.write("weather.ffffffffffff", [("other", 1.0, {})])
        assert sorted(store.keys(VIEW)) == sorted(odd)
        store.drop(VIEW)
        assert list(store.keys(VIEW)) == []
        assert list(store.keys("weather.ffffffffffff")) == ["other"]

    def test_many_keys_are_gone_through(self, store: OnlineStore) -> None:
        assert store.write(VIEW, ((f"k{i}", 1.0, {}) for i in range(20_001))) == 20_001
        assert {*store.keys(VIEW)} == {f"k{i}" for i in range(20_001)}

    def test_a_row_outlives_its_last_use_and_need_not_longer(self, store: OnlineStore) -> None:
        store.write(VIEW, [("a", 1.0, {"x": 1})], keep_s=3600.0)
        store.update(VIEW, ["b"], lambda _key, _row: OnlineRow(1.0, {"x": 2}), keep_s=3600.0)
        assert store.read(VIEW, ["a", "b"]) == [OnlineRow(1.0, {"x": 1}), OnlineRow(1.0, {"x": 2})]

    def test_many_keys_are_read_at_once(self, store: OnlineStore) -> None:
        assert store.write(VIEW, ((f"k{i}", float(i), {"x": i}) for i in range(10_000))) == 10_000
        asked = [f"k{i}" for i in random.Random(0).choices(range(11_000), k=9_001)]
        assert [row and row.values["x"] for row in store.read(VIEW, asked)] == [int(k[1:]) if int(k[1:]) < 10_000 else None for k in asked]

    def test_a_write_that_fails_leaves_nothing(self, store: OnlineStore) -> None:
        store.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])

        def rows() -> Iterator[tuple[str, float, dict[str, object]]]:
            yield "JFK", 2.0, {"temp": 2.0}
            raise ConnectionError("the source broke off")

        with pytest.raises(ConnectionError):
            store.write(VIEW, rows())
        assert store.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]

    def test_another_client_sees_writes_at_once(self, store: OnlineStore, make: Callable[[], OnlineStore]) -> None:
        other = make()
        for i in range(20):
            store.write(VIEW, [("JFK", float(i), {"temp": float(i)})])
            assert other.read(VIEW, ["JFK"]) == [OnlineRow(float(i), {"temp": float(i)})]
        other.close()

    def test_threads_may_share_a_store(self, store: OnlineStore) -> None:
        problems: list[object] = []

        def work(name: int) -> None:
            try:
                for i in range(30):
                    store.write(VIEW, [(f"own{name}", float(i), {"x": i}), ("shared", float(i), {"x": i})])
                    if store.read(VIEW, [f"own{name}"]) != [OnlineRow(float(i), {"x": i})]:
                        problems.append((name, i))
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert store.read(VIEW, ["shared"]) == [OnlineRow(29.0, {"x": 29})]

    def test_it_opens_again_after_close(self, store: OnlineStore, make: Callable[[], OnlineStore]) -> None:
        store.write(VIEW, [("JFK", 1.0, {"temp": 1.0})])
        store.close()
        again = make()
        assert again.read(VIEW, ["JFK"]) == [OnlineRow(1.0, {"temp": 1.0})]
        again.close()
