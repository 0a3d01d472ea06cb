"""The site: every link and image leads somewhere, nobody is shut out, and the search finds things."""

import functools
import http.server
import itertools
import re
import shutil
import subprocess
import sys
import threading
from urllib.parse import unquote, urlparse

import pytest
from bs4 import BeautifulSoup

from tests.browser.conftest import ROOT

pytestmark = pytest.mark.browser
SITE = ROOT / "build" / "book"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages():
    """The pages of the site, built again without a warning."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: make book installs it")
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-WEq", "--keep-going", "-c", "docs", ".", SITE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in found}


@pytest.fixture(scope="module")
def address(pages):
    """The site, served on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def names(pages):
    return [path.relative_to(SITE).as_posix() for path in pages]


def test_every_notebook_has_a_page(pages):
    notebooks = [
        path.relative_to(ROOT).with_suffix(".html").as_posix() for path in (ROOT / "notebooks").rglob("*_*.ipynb")
    ]
    notebooks = [name for name in notebooks if "checkpoint" not in name]
    assert len(notebooks) == 20
    assert set(notebooks) | {"index.html", "notebooks/glossary.html", "CONTRIBUTING.html", "search.html"} <= set(
        names(pages)
    )


def test_internal_links_and_images_lead_somewhere(pages):
    broken, checked = [], 0
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for tag, attribute in [(t, "href") for t in page.find_all("a", href=True)] + [
            (t, "src") for t in page.find_all("img", src=True)
        ]:
            target = urlparse(tag[attribute])
            if target.scheme or target.netloc:
                continue
            checked += 1
            place = (path.parent / unquote(target.path)).resolve() if target.path else path
            lost = target.fragment and place in anchors and unquote(target.fragment) not in anchors[place]
            if not place.exists() or lost:
                broken.append(f"{path.name}: {tag[attribute]}")
    assert checked > 1_000
    assert not broken


def test_every_image_says_what_it_shows(pages):
    images = [(path.name, tag) for path, page in pages.items() for tag in page.find_all("img")]
    assert len(images) > 30
    assert not [name for name, tag in images if len(tag.get("alt", "")) < 20]


def test_headings_are_in_order(pages):
    for path, page in pages.items():
        levels = [int(tag.name[1]) for tag in page.select("article h1, article h2, article h3, article h4")]
        jumps = [(one, two) for one, two in itertools.pairwise(levels) if two > one + 1]
        assert not jumps, path.name


# The dark scheme differs from the light one in its colours only, and these pages hold text, tables, code and panels.
ONLY = {"resultTypes": ["violations"]}  # what passes need not be described, which takes time
# The frame is the same on all pages: of most, the article is looked at.
WHOLE = re.compile(r"index|search|genindex|notebooks/(04|glossary)")
RULES = {"light": ONLY, "dark": ONLY | {"runOnly": ["color-contrast"]}}
IN_THE_DARK = re.compile(r"index|notebooks/(01|04|08|glossary)|docs/results")


@pytest.mark.parametrize("scheme", RULES)
def test_accessibility(pages, address, browser, screenshots, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(120_000)  # on a busy machine
    found = {}
    for name in filter(IN_THE_DARK.match if scheme == "dark" else None, names(pages)):
        page.goto(f"{address}/{name}")
        page.evaluate("() => window.MathJax?.startup?.promise.then(() => true)")  # until its formulas are drawn
        part = None if WHOLE.match(name) else "article"
        violations = axe.run(page, context=part, options=RULES[scheme]).response["violations"]
        if violations:
            found[name] = [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in violations]
        if name in ("index.html", "notebooks/04_loss_curve.html"):
            page.screenshot(path=screenshots / f"site_{scheme}_{name.rsplit('/', 1)[-1]}.png")
    page.close()
    assert not found


def test_search_finds_the_frozen_head(address, browser, screenshots):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=frozen+head")
    page.wait_for_selector("#search-results li a")
    hits = page.locator("#search-results li a").all_inner_texts()
    page.screenshot(path=screenshots / "site_search.png")
    page.close()
    assert any("what really trained the published model" in hit for hit in hits)


def test_formulas_are_drawn_without_a_connection(address, browser, pages):
    """All scripts and styles come with the site."""
    outside = [
        tag["src"] for page in pages.values() for tag in page.find_all("script", src=True) if "://" in tag["src"]
    ]
    assert not outside
    page = browser.new_page()
    page.goto(f"{address}/notebooks/03_train_softmax_loss.html")
    page.wait_for_selector("mjx-container", timeout=30_000)
    assert page.locator("mjx-container").count() > 10
    page.close()
