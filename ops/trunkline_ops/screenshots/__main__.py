"""`ops/screenshots [FOLDER]`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from trunkline_ops.browser import browser
from trunkline_ops.screenshots.scene import Scene, scene
from trunkline_ops.servers import Unavailable, postgres_server, rabbitmq_server
from trunkline_store.migrate import initialise

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

SETTLE_SECONDS: Final = 25.0
"""Until RabbitMQ's rates, which are made of five-second samples, and the late subscriptions can be seen."""
MOST_BYTES: Final = 150_000
"""Of a picture: they are kept with the code."""


async def make(folder: Path, *, settle: float = SETTLE_SECONDS) -> list[Path]:
    """Makes all pictures in a folder that is there. settle: seconds of load before. Raises `Unavailable` where there is
    no browser, or no server."""
    with postgres_server(private=True) as postgres, rabbitmq_server(private=True) as rabbitmq:
        connection = await asyncpg.connect(postgres.dsn)
        try:
            await initialise(connection)
        finally:
            await connection.close()
        async with browser() as running, scene(rabbitmq, postgres.dsn) as playing:
            await asyncio.sleep(settle)  # the load's age is what the pictures show
            return await _taken(running, playing, folder)


async def _taken(running: "Browser", playing: Scene, folder: Path) -> list[Path]:
    taken = []

    async def take(name: str, see: Callable[["Page"], Awaitable[Any]], **context: Any) -> None:
        opened = await running.new_context(**context)
        page = await opened.new_page()
        await see(page)
        taken.append(folder / f"{name}.png")
        await page.screenshot(path=taken[-1], full_page="mobile" in name)
        _shrink(taken[-1])
        await opened.close()

    async def status(page: "Page") -> None:
        await page.goto(playing.page)
        await page.get_by_role("row", name="search-index").wait_for()
        await page.wait_for_timeout(14_000)  # seven more looks, for the curve

    def managed(path: str, wait_for: str) -> Callable[["Page"], Awaitable[None]]:
        async def see(page: "Page") -> None:
            await page.goto(playing.management)
            await (
                page.get_by_role("textbox", name="username")
                .or_(page.locator("[name=username]"))
                .first.fill(playing.user)
            )
            await page.locator("[name=password]").fill(playing.password)
            await page.locator("input[type=submit]").first.click()
            await page.locator("#logout, #login-status").first.wait_for()
            await page.goto(f"{playing.management}/#/{path}")
            await page.get_by_text(wait_for).first.wait_for()
            await page.wait_for_timeout(6000)  # it shows rates from its second look on

        return see

    wide = {"viewport": {"width": 1200, "height": 760}}
    await take("status", status, **wide, color_scheme="light")
    await take("status-dark", status, **wide, color_scheme="dark")
    await take("status-mobile", status, viewport={"width": 360, "height": 740}, color_scheme="light")
    await take("rabbitmq-overview", managed("", "Global counts"), **wide)
    await take("rabbitmq-connections", managed("connections", "eventstore relay"), **wide)
    await take("rabbitmq-queues", managed("queues", "eventstore.billing"), **wide)
    await take("rabbitmq-queue", managed("queues/%2F/eventstore.search-index", "Consumers"), **wide)
    return taken


def _shrink(picture: Path) -> None:
    """To a palette, which is a third of it and looks the same."""
    from PIL import Image

    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(colors=128, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)
    if picture.stat().st_size > MOST_BYTES:
        raise ValueError(f"{picture} has {picture.stat().st_size} bytes, more than {MOST_BYTES}")


if __name__ == "__main__":
    try:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        for each in asyncio.run(make(folder)):
            print(each, each.stat().st_size)
    except Unavailable as reason:
        sys.exit(f"screenshots: {reason}")
