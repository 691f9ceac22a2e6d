"""Pages in a browser, watched: what they say to the console, what they ask for, what the policy forbids."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

try:
    from playwright.async_api import expect
except ImportError:
    expect = None
else:
    expect.set_options(timeout=30_000)

in_a_browser = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("browser")]
"""The mark of all modules: one browser, one loop, one process."""

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",  # it runs as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1200, "height": 800}
NARROW = {"width": 360, "height": 740}

_TELL_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (violation) =>
  console.error(`forbidden: ${violation.violatedDirective} ${violation.blockedURI} ${violation.sample}`));
"""


@dataclass
class Watch:
    """What happens in a context that should not."""

    url: str
    expected: Sequence[str]
    problems: list[str] = field(default_factory=list)

    async def begin(self, context):
        await context.add_init_script(_TELL_VIOLATIONS)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.problems.append(f"uncaught: {error.error}"))
        context.on("request", self._asked)

    def _said(self, message):
        is_expected = any(text in message.text for text in self.expected)
        if message.type in ("error", "warning") and not is_expected:
            self.problems.append(f"{message.type} at {message.page and message.page.url}: {message.text}")

    def _asked(self, request):
        if not request.url.startswith((self.url, "data:")):
            self.problems.append(f"asks for {request.url}")


async def until_live(page):
    """Wait until the page's connection is open, if it has one."""
    if await page.locator("[sse-connect]").count():
        await page.locator("#connection.is-live").wait_for()


async def too_wide(page):
    """What makes the page, not a box in it, scroll sideways."""
    return await page.evaluate(
        """() => {
          const reach = (one) => one.getBoundingClientRect().right;
          if (document.scrollingElement.scrollWidth <= innerWidth) return [];
          return [...document.querySelectorAll("body *")]
            .filter((one) => reach(one) > innerWidth && !one.closest(".box, .json, .hidden"))
            .map((one) => one.outerHTML.slice(0, 120));
        }"""
    )


async def hrefs(page):
    """Where the links of a page lead, also those in pictures."""
    return await page.locator("a[href]").evaluate_all(
        "links => links.map(link => new URL(link.getAttribute('href'), document.baseURI).href)"
    )
