"""The stand-in for the browser."""

import asyncio
import os
import pwd
import sys
import tempfile
from pathlib import Path

import pytest

from services.lsrunner.browser import Browser

URL = "https://accounts.google.com/o/oauth2/v2/auth?client_id=1&redirect_uri=http%3A%2F%2Flocalhost%3A4711"


async def opened(browser: Browser, *arguments: str, user: int | None = None) -> int:
    """Do what the language server does when it opens a page."""
    process = await asyncio.create_subprocess_exec(
        str(browser.path / "xdg-open"), *arguments, env={}, stderr=asyncio.subprocess.DEVNULL, user=user
    )
    return await process.wait()


def test_a_page_that_is_opened_is_caught(tmp_path: Path) -> None:
    browser = Browser(tmp_path, sys.executable, os.geteuid())
    browser.install()
    browser.install()  # each start does

    async def told() -> None:
        async with browser.listening(), asyncio.timeout(10):
            assert await opened(browser, URL) == 0
            assert await browser.address() == URL

    asyncio.run(told())
    assert not (tmp_path / "sign-in.sock").exists()


def test_only_the_vendors_sign_in_page_is_caught(tmp_path: Path) -> None:
    """Whatever is caught is shown to people as the place to enter a password."""
    browser = Browser(tmp_path, sys.executable, os.geteuid())
    browser.install()

    async def told() -> None:
        async with browser.listening(), asyncio.timeout(10):
            for page in ("https://accounts.google.com.evil.example/", "http://accounts.google.com/", "", "x" * 100_000):
                await opened(browser, page)
            await opened(browser, URL)
            assert await browser.address() == URL

    asyncio.run(told())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user for a moment")
@pytest.mark.parametrize("welcome", [True, False])
def test_only_the_language_servers_user_is_listened_to(welcome: bool) -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="wm-browser-") as folder:
        Path(folder).chmod(0o755)
        browser = Browser(Path(folder), "/usr/bin/python3", nobody.pw_uid if welcome else 12345)
        browser.install()

        async def told() -> None:
            async with browser.listening(), asyncio.timeout(10):
                await opened(browser, URL.replace("client_id=1", "client_id=2"), user=nobody.pw_uid)
                await opened(browser, URL)
                first = await browser.address()
                assert ("client_id=2" in first) is welcome

        asyncio.run(told())


def test_nobody_listens_before_it_is_asked_to(tmp_path: Path) -> None:
    browser = Browser(tmp_path, sys.executable, os.geteuid())
    browser.install()
    assert asyncio.run(opened(browser, URL)) != 0


def test_an_address_from_the_log_counts_too(tmp_path: Path) -> None:
    async def told() -> str:
        browser = Browser(tmp_path, sys.executable, os.geteuid())
        browser.offer(URL)
        return await browser.address()

    assert asyncio.run(told()) == URL
