"""The status page, in a real browser."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page, expect

from tests.relay.plain import append
from tests.relay.test_view import TOKEN, follow
from trunkline_ops.browser import browser as chromium
from trunkline_ops.servers import Unavailable
from trunkline_relay import status, view
from trunkline_relay.guard import Guard
from trunkline_relay.metrics import Metrics, Registry
from trunkline_relay.serve import Server
from trunkline_relay.status import Status
from trunkline_relay.view import Broker, View
from trunkline_store import EventStore
from trunkline_store.line import Depth

expect.set_options(timeout=30_000)  # milliseconds, on a machine that may be busy

HOSTILE = ['<img src=x onerror="document.title=1">', "</script><script>document.title=1</script>", "a'\"&amp;%2F/?#`{"]
LONG = (
    "projection-of-everything-that-anybody-ever-wanted-to-know-about-orders-and-parcels-in-one-long-name-without-spaces"
)


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    try:
        async with chromium() as running:
            yield running
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is looked at whenever it is asked for."""
    monkeypatch.setattr(view, "LOOK_SECONDS", 0.0)


@asynccontextmanager
async def served(store: EventStore, *, port: int = 0, guard: Guard | None = None) -> AsyncIterator[str]:
    """The page's address."""
    registry = Registry()

    async def ask(schema: str) -> dict[str, Depth]:
        return {f"{schema}.billing": Depth(4, 1, 1)}

    broker = Broker(ask, "/", "https://mq.example:15672")
    shown = View(Status("eventstore"), Metrics("eventstore", registry), broker)
    shown.store = store
    shown.status.see(0, 0, 0, 0.0, None)
    async with Server("127.0.0.1", port, registry, [shown.status], views=[shown], guard=guard) as server:
        yield f"http://127.0.0.1:{server.port}/"


@asynccontextmanager
async def opened(browser: Browser, url: str, *, complaint: str = "", **options: Any) -> AsyncIterator[Page]:
    """The page, drawn; whatever it complained of, but for what was to be expected, fails the test."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    yield page
    await context.close()
    assert [each for each in complaints if not complaint or complaint not in each] == []


async def names(page: Page) -> Sequence[str]:
    first = "rows => rows.map((row) => row.querySelector('th bdi').textContent)"
    return list(await page.eval_on_selector_all("tbody tr", first))


async def test_it_shows_what_the_store_says_and_refreshes_itself(store: EventStore, browser: Browser) -> None:
    """A heading for the store, the verdict, the four places, and a table with headers for columns and rows; what
    changes there changes here, without loading the page again; paused, it stays as it is."""
    await append(store, "order-1", "E")
    await follow(store, "billing", feed="$category-order")
    async with served(store) as url, opened(browser, url) as page:
        for role, name in [("banner", None), ("main", None), ("contentinfo", None), ("heading", "eventstore")]:
            await expect(page.get_by_role(role, name=name)).to_have_count(1)  # type: ignore[arg-type] # these are roles
        places = page.get_by_role("list", name="The way of an event").get_by_role("listitem")
        await expect(places).to_have_count(4)
        await expect(places.nth(1)).to_contain_text("▲ holds the line")
        await expect(page.get_by_text("The relay holds the line: no relay leads")).to_be_visible()
        row = page.get_by_role("row", name="billing")
        await expect(row.get_by_role("rowheader")).to_contain_text("category order")
        await expect(row).to_contain_text("following")
        await expect(row).to_contain_text("4 ready")
        link = row.get_by_role("link", name="billing")
        await expect(link).to_have_attribute("href", "https://mq.example:15672/#/queues/%2F/eventstore.billing")
        assert await page.get_by_role("columnheader").all_inner_texts() == [
            "Subscription", "State", "Behind", "Parked", "Queue", "Checkpoint", "Owner",
        ]  # fmt: skip
        behind = row.get_by_role("cell").nth(1).locator("span")
        await expect(behind).to_have_text("1")
        await append(store, "order-1", "E", "E")
        await expect(behind).to_have_text("3")
        pause = page.get_by_role("button", name="Pause")
        await pause.press("Space")
        await expect(pause).to_have_attribute("aria-pressed", "true")
        seen = await page.locator("#asked").inner_text()
        await append(store, "order-1", "E")
        await page.wait_for_timeout(3000)  # longer than it would take to look again: that is the claim
        assert await page.locator("#asked").inner_text() == seen
        await pause.press("Enter")
        await expect(behind).to_have_text("4")


async def test_names_are_only_ever_text(store: EventStore, browser: Browser) -> None:
    """P9: markup in names of subscriptions and streams is shown as it is and does nothing; and if the script were to
    write it as markup, the browser would not let it."""
    for name in HOSTILE:
        await follow(store, name, feed=f"s-{name}")
    async with served(store) as url, opened(browser, url, complaint="requires 'TrustedHTML'") as page:
        await expect(page.get_by_role("row")).to_have_count(1 + len(HOSTILE))
        assert sorted(await names(page)) == sorted(HOSTILE)
        assert await page.locator("img").count() == 0
        assert await page.locator("script").count() == 1
        assert await page.title() == "▲ Trunkline eventstore"
        for href in await page.eval_on_selector_all("tbody a", "links => links.map((link) => link.href)"):
            assert re.fullmatch(r"https://mq\.example:15672/#/queues/%2F/eventstore\.[\w.%~-]+", href)
        write = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
        assert await page.evaluate(write) == "TypeError"


@pytest.mark.parametrize("width", [320, 1200])
async def test_it_fits_and_can_be_used_by_keyboard(store: EventStore, browser: Browser, width: int) -> None:
    """On a phone's 320 pixels as on a desk's 1200 nothing is cut off or scrolls sideways; everything that can be used
    is reached with Tab, and shows that it is; columns sort, names are found, and the focus survives a refresh."""
    for name in [LONG, *(f"s{number:02}" for number in range(12))]:
        await follow(store, name)
    await append(store, "a-1", "E")
    viewport = {"width": width, "height": 700}
    async with served(store) as url, opened(browser, url, viewport=viewport) as page:
        await expect(page.locator("tbody tr")).to_have_count(13)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        cut = "cells => cells.filter((cell) => cell.getBoundingClientRect().right > innerWidth).length"
        assert await page.eval_on_selector_all("tbody th, td, li, dd, h2, p", cut) == 0
        reached: list[str] = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            outline, what = await page.evaluate(
                "() => { const at = document.activeElement; return [getComputedStyle(at).outlineStyle, "
                "at === document.body ? '' : at.textContent.trim() || at.id] }"
            )
            if what in reached or not what:
                break
            assert outline != "none", what
            reached.append(what)
        assert {"To the stores", "Pause", "find-eventstore", "Subscription", "Behind", "Parked", LONG, "s11"} <= {
            *reached
        }
        await page.locator("#find-eventstore").fill("S0")
        await expect(page.locator("tbody tr")).to_have_count(10)
        button = page.get_by_role("button", name="Subscription")
        await button.press("Enter")
        await expect(page.get_by_role("columnheader").nth(0)).to_have_attribute("aria-sort", "ascending")
        await button.press("Enter")
        await expect(page.get_by_role("columnheader").nth(0)).to_have_attribute("aria-sort", "descending")
        assert (await names(page))[0] == "s09"
        seen = await page.locator("#asked").inner_text()
        await expect(page.locator("#asked")).not_to_have_text(seen)
        assert await page.evaluate("document.activeElement.textContent") == "Subscription"


CONTRASTS = """() => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || ["SCRIPT", "NOSCRIPT"].includes(element.tagName)) continue;
    const [a, b] = [luminance(parts(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([element.textContent.trim().slice(0, 30), ratio]);
  }
  return [getComputedStyle(document.body).backgroundColor, low];
}"""


async def test_it_is_legible_in_light_and_dark_and_without_colours(store: EventStore, browser: Browser) -> None:
    """All text has a contrast of 4.5 or more in both schemes (WCAG 2.2, 1.4.3), and they differ; whatever a colour
    says, a word beside it says too."""
    await append(store, "a-1", "E")
    await follow(store, "late")
    await follow(store, "halted")
    await store.fetch(
        "UPDATE eventstore.subscriptions SET owner = NULL, halted = $1::text::json WHERE name = 'halted'",
        '{"position": 1, "attempts": 5, "error": "ValueError: x"}',
    )
    grounds = set()
    async with served(store) as url:
        for scheme in ("light", "dark"):
            async with opened(browser, url, color_scheme=scheme) as page:
                await expect(page.get_by_role("row", name="late")).to_contain_text("▲ following, late")
                await expect(page.get_by_role("row", name="halted")).to_contain_text("ValueError: x")
                ground, low = await page.evaluate(CONTRASTS)
                assert low == []
                grounds.add(ground)
                for element in await page.locator(".bad").all():
                    text = await element.inner_text()
                    assert re.search(r"▲|[a-z]|[1-9]", text), "a state is a word, and a number is a number"
    assert len(grounds) == 2


async def test_it_says_when_the_relay_has_gone(store: EventStore, browser: Browser) -> None:
    """What was seen stays, with a notice (a live region) of since when; when the relay is there again, it goes on."""
    await follow(store, "billing")
    async with served(store) as url:
        port = int(url.rsplit(":")[-1].strip("/"))
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(url)
        await expect(page.get_by_role("row", name="billing")).to_be_visible()
    notice = page.get_by_role("status")
    await expect(notice).to_contain_text("The relay does not answer. What stands here is as of")
    await expect(page.get_by_role("row", name="billing")).to_be_visible()
    async with served(store, port=port):
        await expect(notice).to_be_empty()
    await context.close()


async def test_it_says_when_what_it_shows_is_old(
    store: EventStore, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store cannot be looked at, it says so where it says who holds the line, in words that can be read, with
    the age of what it shows; and no more when it is looked at again."""
    monkeypatch.setattr(view, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(view, "PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(view, "_STALE_SECONDS", 0.5)
    monkeypatch.setattr(status, "UNSEEN_SECONDS", 600.0)  # the relay itself is well
    await follow(store, "billing")
    async with served(store) as url, opened(browser, url) as page:
        await expect(page.get_by_role("row", name="billing")).to_be_visible()
        verdict = page.locator(".verdict")
        old = re.compile(r"▲ Out of date: what stands here was seen \d.* ago.*locked")
        await expect(verdict).not_to_have_text(old)
        async with store.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE eventstore.subscriptions IN ACCESS EXCLUSIVE MODE")
            await expect(verdict).to_have_text(old)
            await expect(verdict).to_have_class("verdict bad")
            await expect(page).to_have_title("▲ Trunkline eventstore")
            await expect(page.get_by_role("row", name="billing")).to_be_visible()
            assert (await page.evaluate(CONTRASTS))[1] == []
        await expect(verdict).not_to_have_text(old)


async def test_a_browser_asks_for_the_token_once(store: EventStore, browser: Browser) -> None:
    """Without it there is no page; with it, as the password, the page asks its JSON with it as well."""
    await follow(store, "billing")
    async with served(store, guard=Guard("0.0.0.0", TOKEN)) as url:
        context = await browser.new_context()
        with pytest.raises(Error, match="INVALID_AUTH_CREDENTIALS"):
            await (await context.new_page()).goto(url)
        await context.close()
        async with opened(browser, url, http_credentials={"username": "me", "password": TOKEN}) as page:
            await expect(page.get_by_role("row", name="billing")).to_be_visible()
