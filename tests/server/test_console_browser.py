"""The console as people meet it: in a browser, with real answers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from console_shop import Shop

from kaizenml.access import operations as tokens
from kaizenml.rollouts import operations as rollouts

pytestmark = pytest.mark.slow  # a browser

Take = Callable[[Any, str], Any]
PAGES = ["/", "/endpoints/shop", "/models", "/releases/shop@2", "/data", "/data/orders", "/audit"]
PAGES += ["/features", "/features/plans", "/data/orders/compare", "/tokens"]


@pytest.fixture
def page(browser: Any, console: str) -> Iterator[Any]:
    """A desktop page that fails on any console error, page error or request to another host."""
    yield from _watched(browser, console, viewport={"width": 1280, "height": 800})


@pytest.fixture
def phone(browser: Any, console: str) -> Iterator[Any]:
    yield from _watched(browser, console, viewport={"width": 390, "height": 800}, has_touch=True)


def _watched(browser: Any, console: str, **options: Any) -> Iterator[Any]:
    context = browser.new_context(base_url=console, **options)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(f"outside: {request.url}") if not request.url.startswith(console) else None)
    yield page
    context.close()
    assert faults == []


def test_overview_says_what_matters_and_shows_real_numbers(page: Any, screenshots: Take) -> None:
    page.goto("/")
    assert "shop" in page.locator("h1").inner_text()
    row = page.locator("#endpoints tbody tr").first.inner_text()
    assert "shop@2 100 %" in row
    assert "log loss 0." in row
    assert page.locator("#chart svg.kz path.line").count() > 0
    screenshots(page, "overview")


def test_endpoint_page_draws_live_accuracy_with_the_release_marked(page: Any, screenshots: Take) -> None:
    page.goto("/endpoints/shop")
    chart = page.locator("#accuracy .wide svg").first
    assert chart.get_attribute("role") == "img"
    assert "naive" in chart.text_content()
    assert "shop@2" in chart.text_content()
    assert page.locator("#traffic tbody tr").count() == 2  # champion and shadow
    screenshots(page, "endpoint")


def test_features_are_found_and_the_unused_are_named(page: Any, screenshots: Take) -> None:
    page.goto("/features")
    assert "2 features in 1 view, 2 used by no release" in page.locator("h1").inner_text()
    page.get_by_label("Name or word").fill("FEE")
    page.get_by_role("button", name="Show").click()
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="plans").first.click()
    assert page.locator("h1").inner_text().startswith("plans: 2 features of plan")
    assert page.locator("tbody tr").nth(1).locator("svg.kz").count() == 3  # distribution, over time, missing over time
    screenshots(page, "view")


def test_two_versions_are_compared_with_pictures(page: Any, screenshots: Take) -> None:
    page.goto("/data/orders")
    assert "shop@2 is champion of shop" in page.locator("main").inner_text()  # what was made of the newest version
    page.get_by_role("link", name="what changed").first.click()
    assert page.locator("h1").inner_text() == "orders@2 against orders@1: 40 rows came, 0 went, 0 changed"
    assert page.locator("svg.kz path.stroke").count() >= 4
    screenshots(page, "compare")


def test_a_rule_is_told_with_the_rows_that_it_decided(shop: Shop, page: Any) -> None:
    odd = {"ordered_at": "2026-09-30T12:00:00Z", "price": 1e6, "plan": "pro", "age": 40, "member": True}
    assert shop.client.predict("shop", [odd], unit="odd")["predictions"][0]["decided_by"] == "fallback"
    shop.watch()
    page.goto("/endpoints/shop")
    told = page.locator("#rules tbody tr").first.inner_text()
    assert "outside what training saw, by more than 3: naive" in told
    assert told.split("\t")[1] == "1"


def test_tokens_are_listed_without_their_secret(shop: Shop, page: Any) -> None:
    made = tokens.create(shop.ctx, "checkout", scope=["predict"], rate=200, why="the web shop")
    page.goto("/tokens")
    row = page.locator("tbody tr").first.inner_text()
    assert all(word in row for word in ("checkout", "valid", "predict", "200", "maria", "the web shop"))
    assert made.token not in page.content()


def test_new_answers_appear_without_a_reload(shop: Shop, page: Any) -> None:
    page.goto("/endpoints/shop")
    page.evaluate("window.same = true")
    before = page.locator("#traffic h2").inner_text()
    shop.ask(rows=17, seed=99)
    shop.watch()
    page.wait_for_function("before => document.querySelector('#traffic h2').innerText !== before", arg=before, timeout=15_000)
    assert page.evaluate("window.same") is True


def test_kill_asks_once_says_what_it_does_and_kills(shop: Shop, page: Any, screenshots: Take) -> None:
    page.goto("/")
    page.get_by_role("link", name="Kill shop").click()
    dialog = page.get_by_role("dialog")
    assert "every answer is the naive one" in dialog.inner_text()
    screenshots(page, "kill-dialog")
    page.keyboard.press("Escape")
    assert rollouts.show(shop.ctx, "shop").killed is None
    page.get_by_role("link", name="Kill shop").click()
    dialog.get_by_label("Why?").fill("prices are wrong since noon")
    dialog.get_by_role("button", name="Kill shop").click()
    page.wait_for_url("**/endpoints/shop?done=*")
    try:
        assert rollouts.show(shop.ctx, "shop").killed == "prices are wrong since noon"
        assert "killed" in page.locator("h1").inner_text()
        assert "Done: shop killed" in page.locator(".note").inner_text()
        screenshots(page, "killed")
    finally:
        page.get_by_role("link", name="Revive").click()
        page.get_by_role("dialog").get_by_role("button", name="Revive").click()
        page.wait_for_url("**/endpoints/shop?done=*")
    assert rollouts.show(shop.ctx, "shop").killed is None


def test_everything_works_without_javascript(shop: Shop, browser: Any, console: str) -> None:
    context = browser.new_context(base_url=console, java_script_enabled=False)
    page = context.new_page()
    page.goto("/endpoints/shop")
    page.get_by_role("link", name="Try a release").click()
    assert page.locator("h1").inner_text() == "Try a release on shop?"
    page.get_by_label("Share of the traffic").fill("12.5")
    page.get_by_label("Why?").fill("to see")
    page.get_by_role("button", name="Start the trial").click()
    try:
        assert [(arm.release, arm.weight) for arm in rollouts.show(shop.ctx, "shop").challengers] == [("shop@1", 125)]
        assert "on trial" in page.locator("#statement").inner_text()
    finally:
        rollouts.withdraw(shop.ctx, "shop", "shop@1", why="seen")
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_a_phone(phone: Any, path: str, screenshots: Take) -> None:
    phone.goto(path)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.locator("h1").count() == 1
    screenshots(phone, f"phone{path.replace('/', '-')}")


def test_pages_are_dark_where_people_want_it_so(browser: Any, console: str, screenshots: Take) -> None:
    context = browser.new_context(base_url=console, color_scheme="dark", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    for path in PAGES:
        page.goto(path)
        assert _luminance(page, "body", "backgroundColor") < 0.1
        assert _luminance(page, "h1", "color") > 0.7
        screenshots(page, f"dark{path.replace('/', '-')}")
    context.close()


def test_every_page_can_be_walked_by_keyboard_and_names_its_controls(page: Any) -> None:
    for path in PAGES:
        page.goto(path)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Skip to content"
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, select, svg[role=img]')].filter(each =>
                 !(each.innerText || each.getAttribute('aria-label') || each.labels?.length || each.type === 'hidden')).map(each => each.outerHTML)"""
        )
        assert unnamed == []
        assert page.locator("main").count() == 1
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
        assert len(ids) == len(set(ids))


def test_text_has_enough_contrast_in_both_colour_schemes(browser: Any, console: str) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(base_url=console, color_scheme=scheme)
        page = context.new_page()
        page.goto("/endpoints/shop")
        for selector in ("h1", ".lead", "small", "th", "td", "a", ".state", ".button.bad"):
            text, ground = _luminance(page, selector, "color"), _ground(page, selector)
            contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
            assert contrast >= 4.5, (scheme, selector, contrast)
        context.close()


_CHANNELS = "text => text.match(/[\\d.]+/g).slice(0, 3).map(Number)"


def _luminance(page: Any, selector: str, name: str) -> float:
    channels = page.evaluate(f"([s, n]) => ({_CHANNELS})(getComputedStyle(document.querySelector(s))[n])", [selector, name])
    return _relative(channels)


def _ground(page: Any, selector: str) -> float:
    channels = page.evaluate(
        f"""s => {{ let each = document.querySelector(s); const seen = () => getComputedStyle(each).backgroundColor;
                 while (each && (seen() === 'transparent' || /, 0\\)$/.test(seen()))) each = each.parentElement; return ({_CHANNELS})(seen()); }}""",
        selector,
    )
    return _relative(channels)


def _relative(channels: list[float]) -> float:
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
