"""What the browser tests share: a headless Chromium, and a folder for screenshots to look at."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def browser():
    """Chromium: Debian's where there is one, else the one that Playwright has installed."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser installs it")
    with api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = shutil.which("chromium") or shutil.which("chromium-browser") or (own if own.exists() else None)
        if path is None:
            pytest.skip("there is no Chromium: install Debian's chromium, or run python -m playwright install chromium")
        chromium = playwright.chromium.launch(executable_path=str(path), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def screenshots():
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
