"""Headless Chromium over its DevTools protocol: open a page, wait for what should be seen, look at it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds for a page to show something
CLICK_AGAIN = 10  # seconds after which a click has been lost, as where the page was drawn anew at that moment
VISIBLE_TEXT = "document.body.innerText"
# where to point at an element, once it stands still in the window and nothing covers it; else null
POINT = """new Promise(done => {
  const element = TARGET;
  if (!element) return done(null);
  element.scrollIntoView({block: "center"});
  const box = () => element.getBoundingClientRect(), before = box();
  setTimeout(() => {
    const now = box(), x = now.x + now.width * PART, y = now.y + now.height / 2;
    const top = document.elementFromPoint(x, y), still = now.x === before.x && now.y === before.y;
    done(still && top && (element.contains(top) || top.contains(element)) ? [x, y] : null);
  }, 100);
})"""


def find_browser() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """A tab. Its screenshots go to a folder, that of a failure too, whose message names them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, screenshots: Path) -> None:
        self.socket = socket
        self.screenshots = screenshots
        self.commands = 0
        self.thrown = ""  # by the last expression that threw

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command; empty where the page went away meanwhile."""
        self.commands += 1
        await self.socket.send_json({"id": self.commands, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self.commands:
                return dict(message.get("result", {}))

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; None where it has none yet, as while a page is loading."""
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            self.thrown = f"{expression}: {answer['exceptionDetails']}"
        return answer.get("result", {}).get("value") if "exceptionDetails" not in answer else None

    async def open(self, url: str) -> None:
        """A fresh page: an address that differs only after the # would not load anew."""
        await self.command("Page.navigate", url="about:blank")
        await self.command("Page.navigate", url=url)

    async def shot(self, name: str) -> Path:
        """What the window shows, as a file."""
        answer = await self.command("Page.captureScreenshot", format="png")
        self.screenshots.mkdir(parents=True, exist_ok=True)
        path = self.screenshots / f"{name}.png"
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    async def wait_for(self, expression: str, patience: float = PATIENCE) -> Any:
        """The value of a JavaScript expression, as soon as it is truthy; fails with the page's text and a screenshot."""
        until = time.monotonic() + patience
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > until:
                await self.fail(f"never true: {expression}")
            await asyncio.sleep(0.2)
        return value

    async def fail(self, why: str) -> None:
        """Fails with this, the page's text, and where to see it."""
        seen = await self.shot("failed")
        text = await self.evaluate(VISIBLE_TEXT)
        raise AssertionError(f"{why}; SCREENSHOT: {seen}; thrown: {self.thrown}; the page says: {text}")

    async def click(self, target: str, until: str, at: float = 0.5) -> None:
        """Point at an element, which nothing covers, and click; until a JavaScript expression is true. at: of its width."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            x, y = await self.wait_for(POINT.replace("TARGET", target).replace("PART", str(at)))
            for kind, button in (("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")):
                clicks = int(button == "left")
                await self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=clicks)
            again = time.monotonic() + CLICK_AGAIN
            while time.monotonic() < again:
                if await self.evaluate(until):
                    return
                await asyncio.sleep(0.2)
        await self.fail(f"clicked {target}, and never true: {until}")

    async def see(self, *texts: str) -> None:
        """Wait until all these texts are on the page."""
        for text in texts:
            await self.wait_for(f"{VISIBLE_TEXT}.includes({text!r})")


@asynccontextmanager
async def page(program: str, folder: Path) -> AsyncIterator[Page]:
    """A tab of a browser of its own, with an empty profile in `folder`, where the screenshots are too."""
    profile = folder / "profile"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox for root
    process = subprocess.Popen(
        [
            program, "--headless=new", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--window-size=1600,1000", *sandbox, "about:blank",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            address = await _address(profile / "DevToolsActivePort")
            async with session.get(f"{address}/json") as answer:
                tabs = await answer.json()
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket, folder / "screenshots")
    finally:
        process.terminate()
        process.wait()


async def _address(file: Path) -> str:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if file.exists() and (lines := file.read_text().splitlines()):
            return f"http://127.0.0.1:{lines[0]}"
        await asyncio.sleep(0.1)
    raise AssertionError("the browser did not start")
