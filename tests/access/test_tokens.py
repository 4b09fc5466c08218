"""Tokens: what opens, what does not, and that no secret is kept anywhere."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec
import pytest

from kaizenml import events
from kaizenml.access import buckets, operations, owner, token
from kaizenml.access.buckets import Buckets
from kaizenml.access.token import FILE, Keyring, Token, digest, make
from kaizenml.clock import SimulatedClock, SystemClock
from kaizenml.errors import Conflict, Corrupt, Forbidden, NotFound, RateLimited, Unauthorized, UsageError
from kaizenml.project import open_project

NOW = 1_800_000_000.0


def kept(name: str, **more) -> tuple[Token, str]:
    identity, text = make()
    return Token(**{"name": name, "id": identity, "hash": digest(text), "scopes": ["predict"], "created_at": NOW} | more), text


def check(keyring: Keyring, text: str, scope=None, *, now: float = NOW, tick: float = 0.0) -> str:
    return keyring.check(f"Bearer {text}", scope, now=now, tick=tick)


def test_a_token_opens_what_its_scopes_say_and_admin_opens_all():
    (predicts, one), (admin, two) = kept("shop"), kept("ops", scopes=["admin"])
    keyring = Keyring([predicts, admin])
    assert check(keyring, one, "predict") == check(keyring, one) == "shop"
    assert [check(keyring, two, scope) for scope in ("predict", "outcomes", "admin", None)] == ["ops"] * 4
    with pytest.raises(Forbidden, match="the token 'shop' may not outcomes; it may predict"):
        check(keyring, one, "outcomes")


def test_what_is_no_valid_token_is_refused_alike_whatever_is_wrong_with_it():
    valid, text = kept("shop")
    ended, old = kept("old", expires_at=NOW)
    revoked, gone = kept("gone", revoked_at=NOW - 5)
    keyring = Keyring([valid, ended, revoked], fixed={"KAIZEN_TOKEN": "f" * 20})
    said = set()
    for shown in (text[:-1], f"{text}x", f"kzn_{valid.id}_", "kzn_", old, gone, "ffff", "ÿ\x00"):
        with pytest.raises(Unauthorized) as caught:
            check(keyring, shown)
        said.add(str(caught.value))
    assert len(said) == 1
    assert text not in said.pop()
    for shown in ("", "Bearer", "Bearer ", text, f"Basic {text}"):
        with pytest.raises(Unauthorized, match="a token is needed"):
            keyring.check(shown, None, now=NOW, tick=0.0)
    assert keyring.check(f"bEARER  {text} ", None, now=NOW, tick=0.0) == "shop"
    assert check(keyring, old, now=NOW - 1) == "old"
    assert check(keyring, "f" * 20, "admin") == "KAIZEN_TOKEN"


def test_more_than_the_rate_is_told_when_to_come_again(tmp_path):
    slow, text = kept("slow", rate=0.25)
    keyring = Keyring([slow], rates=Buckets(tmp_path / buckets.FILE))
    assert check(keyring, text, tick=100.0) == "slow"
    with pytest.raises(RateLimited, match=r"may ask 0\.25 times a second") as caught:
        check(keyring, text, tick=101.5)
    assert caught.value.values == {"rate": 0.25, "retry_after_s": 3}
    # whoever reads the tokens anew goes on with the same count
    with pytest.raises(RateLimited):
        check(Keyring([slow], rates=Buckets(tmp_path / buckets.FILE)), text, tick=101.5)
    assert check(keyring, text, tick=104.0) == "slow"


def test_valid_tokens_have_buckets_of_their_own_until_there_are_no_more():
    taken = [f"{number:03x}00000" for number in range(buckets.SLOTS)]
    for _ in range(20):
        assert make(taken[:7] + taken[8:])[0].startswith("007")
    with pytest.raises(Conflict, match="4,096 valid tokens"):
        make(taken)


def test_a_token_is_shown_once_and_its_secret_is_kept_nowhere(ctx):
    made = operations.create(ctx, "checkout", scope=["predict"], rate=5, expires="90d", why="the till")
    assert made.token.startswith("kzn_")
    (listed,) = operations.list(ctx)
    assert (listed.name, listed.scopes, listed.rate, listed.state) == ("checkout", ["predict"], 5, "valid")
    assert listed.expires_at == pytest.approx(SystemClock().timestamp() + 90 * 86400, abs=60)
    operations.revoke(ctx, "checkout", why="drill")
    secret = made.token[len("kzn_12345678_") :]
    for path in ctx.state.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    with ctx.catalog.read() as connection:
        found = [(event.kind, event.subject, event.actor, event.why) for event in events.read(connection)]
    assert found == [("tokens.created", "checkout", "maria", "the till"), ("tokens.revoked", "checkout", "maria", "drill")]
    assert (ctx.state / "serving" / FILE).stat().st_mode & 0o777 == 0o600


def test_a_revoked_name_may_be_taken_again_and_revoking_twice_is_no_error(ctx):
    first = operations.create(ctx, "till")
    with pytest.raises(Conflict, match="there is a valid token 'till'"):
        operations.create(ctx, "till")
    assert operations.revoke(ctx, "till").state == "revoked"
    assert operations.revoke(ctx, "till").state == "revoked"
    second = operations.create(ctx, "till")
    keyring = Keyring(token.read(ctx.state / "serving" / FILE))
    assert check(keyring, second.token, now=SystemClock().timestamp()) == "till"
    with pytest.raises(Unauthorized):
        check(keyring, first.token, now=SystemClock().timestamp())
    with pytest.raises(NotFound, match="did you mean 'till'"):
        operations.revoke(ctx, "tilll")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"scope": ["predicts"]}, "did you mean 'predict'"),
        ({"rate": 0}, "the rate is 0"),
        ({"rate": float("nan")}, "the rate is nan"),
        ({"expires": "soon"}, "not a duration"),
        ({"expires": "0s"}, "would end at once"),
    ],
)
def test_a_token_that_cannot_be_is_refused(ctx, more, says):
    with pytest.raises(UsageError, match=says):
        operations.create(ctx, "till", **more)
    assert operations.list(ctx) == []


def test_simulated_time_makes_no_token_older_or_younger(ctx):
    clock = SimulatedClock(ctx.state / "clock", datetime(2001, 1, 1, tzinfo=UTC))
    past = open_project(ctx.root, actor="maria", clock=clock)
    operations.create(past, "till", expires="1h")
    clock.set(datetime(2090, 1, 1, tzinfo=UTC))
    assert [each.state for each in operations.list(past)] == ["valid"]
    past.online.close()
    past.catalog.close()


def test_the_file_is_written_when_it_is_to_change_and_mended_when_it_was_damaged(ctx):
    operations.create(ctx, "till")
    path = ctx.state / "serving" / FILE
    before = path.stat().st_ino
    operations.publish(ctx)
    assert path.stat().st_ino == before
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    with pytest.raises(Corrupt, match="cannot be read"):
        token.read(path)
    operations.publish(ctx)
    assert path.read_bytes() == good
    path.write_bytes(msgspec.json.encode({"format": 2, "tokens": []}))
    with pytest.raises(Corrupt, match="format 2, this server reads up to 1"):
        token.read(path)


def test_every_start_makes_the_owner_a_fresh_token_that_others_may_not_read(tmp_path):
    assert owner.read(tmp_path) is None
    owner.renew(tmp_path)
    first = owner.read(tmp_path)
    left = tmp_path / "serving" / f".{owner.FILE}.{os.getpid()}"
    left.write_text("left by a killed process")
    left.chmod(0o666)
    owner.renew(tmp_path)
    assert first != owner.read(tmp_path)
    assert (tmp_path / "serving" / owner.FILE).stat().st_mode & 0o777 == 0o600
    assert not left.exists()
