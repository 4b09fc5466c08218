"""Outcomes: idempotent, told apart, all of a request or none."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from kaizenml.errors import Corrupt, InvalidInput
from kaizenml.features.signature import Signature
from kaizenml.serving import outcomes
from kaizenml.serving.ids import Ids
from kaizenml.serving.outcomes import Outcome, OutcomeStore

BINARY = Signature(task="binary", target="late", classes=[False, True], fields=[])
WORDS = Signature(task="multiclass", target="size", classes=["small", "large"], fields=[])
NUMBERS = Signature(task="multiclass", target="digit", classes=[1, 2, 3], fields=[])
REGRESSION = Signature(task="regression", target="price", classes=[], fields=[])
NOW = 1_700_000_000.0


@pytest.fixture
def ids():
    return Ids(b"key")


@pytest.fixture
def store(tmp_path, ids):
    found = OutcomeStore(tmp_path, ids, window_s=86400.0)
    yield found
    found.close()


def test_what_arrives_is_kept_and_told_apart(tmp_path, store, ids):
    first, second, third, old = *ids.make(NOW, 3), ids.make(NOW - 10 * 86400, 1)[0]
    taken = store.take(
        "shop",
        [
            Outcome(first, True),
            Outcome(second, False, NOW - 5),
            Outcome("elsewhere-7", True),
            Outcome(old, True),
            Outcome(first, True),
            Outcome(second, True),
        ],
        [BINARY],
        NOW + 60,
    )
    assert (taken.accepted, taken.early, taken.late, taken.unknown, taken.duplicate, taken.conflicting) == (4, 1, 1, 1, 1, 1)
    assert (taken.unknown_ids, taken.conflicting_ids) == (["elsewhere-7"], [second])
    again = store.take("shop", [Outcome(first, True), Outcome(third, False)], [BINARY], NOW + 90)
    assert (again.accepted, again.duplicate) == (1, 1)
    kept = outcomes.since(tmp_path, "shop", 0, 100)
    assert [(k.id, k.value) for k in kept] == [(first, True), (second, False), ("elsewhere-7", True), (old, True), (third, False)]
    assert kept[1].at == NOW - 5
    assert [k.id for k in outcomes.since(tmp_path, "shop", kept[2].cursor, 1)] == [old]
    assert outcomes.since(tmp_path, "other", 0, 100) == []
    assert outcomes.count(tmp_path, "shop") == (4, kept[-1].cursor)
    assert outcomes.count(tmp_path, "shop", after=kept[-1].cursor) == (0, kept[-1].cursor)
    assert outcomes.states(tmp_path, "shop") == {"kept": 5, "early": 1, "late": 1, "unknown": 1, "conflicting": 1}


def test_nothing_yet_is_nothing(tmp_path):
    assert outcomes.since(tmp_path, "shop", 0, 10) == []
    assert outcomes.count(tmp_path, "shop", after=3) == (0, 3)
    assert outcomes.find(tmp_path, "x") is None


@pytest.mark.parametrize(
    ("signature", "value", "kept"),
    [
        (BINARY, True, True),
        (BINARY, 0, False),
        (BINARY, 1.0, True),
        (WORDS, "large", "large"),
        (NUMBERS, 2, 2),
        (NUMBERS, 3.0, 3),
        (REGRESSION, 3, 3.0),
    ],
)
def test_a_value_is_kept_as_the_signature_writes_it(tmp_path, store, ids, signature, value, kept):
    (identity,) = ids.make(NOW, 1)
    store.take("e", [Outcome(identity, value)], [signature], NOW)
    found = outcomes.find(tmp_path, identity)
    assert found.value == kept
    assert type(found.value) is type(kept)


@pytest.mark.parametrize(
    ("signature", "outcome", "says"),
    [
        (BINARY, Outcome("a", "true"), "none of the classes"),
        (BINARY, Outcome("a", None), "none of the classes"),
        (BINARY, Outcome("a", 2), "none of the classes"),
        (WORDS, Outcome("a", "lrge"), "did you mean 'large'"),
        (REGRESSION, Outcome("a", "3"), "not a number"),
        (REGRESSION, Outcome("a", True), "not a number"),
        (BINARY, Outcome("a", True, "soon"), "not a time"),
        (BINARY, Outcome("", True), "id is empty"),
    ],
)
def test_a_wrong_outcome_is_named_and_nothing_of_its_request_is_kept(tmp_path, store, signature, outcome, says):
    good = Outcome("good", signature.classes[0] if signature.classes else 1.0)
    with pytest.raises(InvalidInput, match=says) as caught:
        store.take("e", [good, outcome], [signature], NOW)
    assert caught.value.values["row"] == 1
    assert outcomes.since(tmp_path, "e", 0, 10) == []


def test_a_class_of_any_release_that_answers_will_do(store):
    newer = Signature(task="multiclass", target="size", classes=["small", "large", "huge"], fields=[])
    assert store.take("e", [Outcome("a", "huge")], [WORDS, newer], NOW).accepted == 1


def test_writers_at_once_keep_each_outcome_once(tmp_path, ids):
    made = ids.make(NOW, 300)

    def write(_: int) -> int:
        own = OutcomeStore(tmp_path, ids, window_s=60.0)
        accepted = sum(own.take("e", [Outcome(i, True) for i in made[low : low + 20]], [BINARY], NOW).accepted for low in range(0, 300, 20))
        own.close()
        return accepted

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 300
    assert len(outcomes.since(tmp_path, "e", 0, 1000)) == 300


def test_a_damaged_or_newer_file_is_told(tmp_path, ids):
    (tmp_path / outcomes.FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(Corrupt, match="damaged"):
        OutcomeStore(tmp_path, ids, window_s=1.0).take("e", [Outcome("a", True)], [BINARY], NOW)
    (tmp_path / outcomes.FILE).unlink()
    connection = sqlite3.connect(tmp_path / outcomes.FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Corrupt, match="format 99"):
        OutcomeStore(tmp_path, ids, window_s=1.0).take("e", [Outcome("a", True)], [BINARY], NOW)
