"""Headless Chromium over its DevTools protocol: open a page, wait for what should be seen, look at it."""

from __future__ import annotations

import asyncio
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
PATIENCE = 30  # seconds for a page to show something
VISIBLE_TEXT = "document.body.innerText"


def find_browser() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Page:
    """A tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.commands = 0

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.commands += 1
        await self.socket.send_json({"id": self.commands, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self.commands:
                assert "error" not in message, message
                return dict(message["result"])

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def open(self, url: str) -> None:
        """A fresh page: an address that differs only after the # would not load anew."""
        await self.command("Page.navigate", url="about:blank")
        await self.command("Page.navigate", url=url)

    async def wait_for(self, expression: str) -> Any:
        """The value of a JavaScript expression, as soon as it is truthy; fails with the page's text."""
        until = time.monotonic() + PATIENCE
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > until:
                raise AssertionError(f"never true: {expression}; the page says: {await self.evaluate(VISIBLE_TEXT)}")
            await asyncio.sleep(0.2)
        return value

    async def see(self, *texts: str) -> None:
        """Wait until all these texts are on the page."""
        for text in texts:
            await self.wait_for(f"{VISIBLE_TEXT}.includes({text!r})")


@asynccontextmanager
async def page(program: str, profile: Path) -> AsyncIterator[Page]:
    """A tab of a browser of its own, with an empty profile in the folder `profile`."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox for root
    process = subprocess.Popen(
        [
            program, "--headless=new", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--window-size=1600,5000", *sandbox, "about:blank",  # so tall that charts below others are drawn too
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
                yield Page(socket)
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
