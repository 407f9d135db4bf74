"""The built book on a server of its own, and a browser that reaches nothing else."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response, Route, sync_playwright

from book.build.pdf import DRAWN, FLAGS, HOW_TO_GET_IT, chromium
from tests.book.conftest import build_smoke

REQUIRED = "MEMGEN_BROWSER_REQUIRED"  # where it is set (.ci/run), a missing browser is a failure
READY_BOOK = "MEMGEN_BOOK"  # a folder of HTML to look at instead of the smoke profile's, such as _build/html
PATIENCE = 30_000  # milliseconds for one step; a busy machine draws slowly


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that does not write a line for each request."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, while it is served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Visit:
    """A page in the browser, and what went wrong while it was shown."""

    page: Page
    base: str
    problems: list[str] = field(default_factory=list)

    def open(self, name: str) -> Page:
        """Go to a page of the book and wait until its charts are drawn."""
        self.page.goto(f"{self.base}{name}", wait_until="load")
        self.page.wait_for_function(DRAWN)
        self.page.add_style_tag(
            content="*, ::before, ::after { animation: none !important; transition: none !important; }"
        )
        return self.page


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built book."""
    if READY_BOOK in os.environ:
        return Path(os.environ[READY_BOOK]).resolve()
    return build_smoke(tmp_path_factory)[0].root / "_build/shown"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless browser."""
    program = chromium()
    if program is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(HOW_TO_GET_IT)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@contextmanager
def visiting(browser: Browser, base: str, width: int = 1280, **options: object) -> Iterator[Visit]:
    """A page that reaches `base` only and notes every error, failed request, and request to elsewhere."""
    context: BrowserContext = browser.new_context(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    visit = Visit(context.new_page(), base)
    note = visit.problems.append

    def only_the_book(route: Route) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            note(f"asked for {route.request.url}")
            route.abort()

    def failed(request: Request) -> None:
        note(f"failed: {request.url} ({request.failure})")

    def answered(response: Response) -> None:
        if response.status >= 400:
            note(f"{response.status}: {response.url}")

    context.route("**/*", only_the_book)
    visit.page.on("console", lambda message: note(f"console: {message.text}") if message.type == "error" else None)
    visit.page.on("pageerror", lambda error: note(f"error: {error}"))
    visit.page.on("requestfailed", failed)
    visit.page.on("response", answered)
    try:
        yield visit
    finally:
        context.close()


@pytest.fixture(scope="session")
def base(browser: Browser, html: Path) -> Iterator[str]:
    """The address of the book; without a browser, no book is built for it."""
    with served(html) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, base: str) -> Iterator[Visit]:
    """A wide page, in light colours."""
    with visiting(browser, base, color_scheme="light") as opened:
        yield opened
