"""JupyterLab in a headless browser: notebooks 01 to 04 run to their end, bars move, widgets answer."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import psutil
import pytest

from tests.browser.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1_800)]
NOTEBOOKS = ("01_base_model", "02_nli_dataset", "03_train_softmax_loss", "04_loss_curve")
MINUTES = 15  # that one notebook may take on a slow machine


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of the notebooks, so that JupyterLab may save them."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


@pytest.fixture(scope="module")
def lab(course):
    """The address of a JupyterLab that ``make lab`` would start, with bars as a learner has them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    silent = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    environment = {name: value for name, value in os.environ.items() if name not in silent}
    environment.update(STLIB_PROFILE="mini", STLIB_RUNS=str(course / "runs"), JUPYTER_CONFIG_DIR=str(course / "config"))
    options = [
        "--no-browser",
        "--allow-root",
        "--IdentityProvider.token=",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    made = re.search(
        r"^lab:.*\n\t\$\(BIN\)/jupyter lab (.+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    with open(course / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *made[1].replace("docs/lab", str(ROOT / "docs" / "lab")).split(), *options],
            cwd=course, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: answers(address), 60, lambda: (course / "server.log").read_text(encoding="utf-8")[-2_000:])
            yield address
        finally:
            for process in [*psutil.Process(server.pid).children(recursive=True), server]:
                process.terminate()
            server.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/api", timeout=2).status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, why=lambda: ""):
    """The first true value of ``condition()``."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        value = condition()
        if value:
            return value
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds} s in vain: {why()}")


def open_notebook(page, address: str, name: str) -> None:
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector(
        ".jp-NotebookPanel:not(.lm-mod-hidden) [data-status=idle], .jp-Notebook-ExecutionIndicator[data-status=idle]",
        timeout=60_000,
    )
    # Asked to run a notebook that has no kernel yet, JupyterLab asks which one to take.
    names = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-KernelName")
    wait_for(lambda: any("Python 3" in name for name in names.all_inner_texts()), 60, names.all_inner_texts)


def run_all(page, again: bool = False) -> list[str]:
    """Run all cells; returns the widths that progress bars had on the way."""
    page.locator(".lm-MenuBar-item", has_text="Run").first.click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy]", timeout=30_000)
    widths, idle = [], 0

    def finished() -> bool:
        nonlocal idle
        found = page.evaluate("""() => ({
            status: document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status,
            waiting: [...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.innerText.includes('*')),
            bars: [...document.querySelectorAll('.progress-bar')].map(bar => bar.style.width),
        })""")
        widths.extend(found["bars"])
        idle = idle + 1 if found["status"] == "idle" and not found["waiting"] else 0
        return idle >= 4

    wait_for(finished, 60 * MINUTES)
    # On a busy machine, what is asked while the kernel is still being connected may be lost: no cell has a number then.
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    return widths if again or any(map(str.isdigit, "".join(prompts))) else run_all(page, again=True)


def save(page, path):
    before = path.stat().st_mtime_ns
    page.keyboard.press("Escape")
    page.locator(".lm-MenuBar-item", has_text="File").first.click()
    page.get_by_role("menuitem", name="Save Notebook", exact=False).first.click()
    wait_for(lambda: path.stat().st_mtime_ns != before, 60)
    return nbformat.read(path, as_version=4)


def figures(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def page(browser, lab):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


def test_make_lab_opens_the_first_notebook(page, lab, screenshots):
    """It opens without a question about news, and its table of contents is one click away."""
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.get_by_role("tab", name="Table of Contents").click()
    page.wait_for_selector(".jp-TableOfContents >> text=Load the base model", timeout=60_000)
    page.screenshot(path=screenshots / "lab_start.png")
    assert not page.locator(".jp-toast-message, .Toastify__toast, .jp-Dialog").count()
    assert "01_base_model" in page.title() or page.locator("text=01_base_model.ipynb").count()


@pytest.mark.parametrize("name", ["01_base_model", "09_model_card"])
def test_a_notebook_that_is_only_opened_is_not_marked_as_changed(page, lab, name):
    open_notebook(page, lab, name)
    page.wait_for_timeout(3_000)  # the kernel has answered by then, and its answer is what used to change the notebook
    assert page.locator(".lm-TabBar-tab", has_text=f"{name}.ipynb").count()
    assert not page.locator(".jp-mod-dirty").count()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(page, lab, course, screenshots, name):
    committed = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    open_notebook(page, lab, name)
    widths = run_all(page)
    page.screenshot(path=screenshots / f"lab_{name}.png")
    if name.startswith("01"):
        operate_widgets(page, screenshots)
    saved = save(page, course / "notebooks" / f"{name}.ipynb")
    code = [cell for cell in saved.cells if cell.cell_type == "code" and cell.source]
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output.get("evalue") for output in outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert figures(saved) == figures(committed) > 0
    if name.startswith("03"):  # the notebook that trains
        assert len({width for width in widths if width}) >= 3, "no progress bar was seen moving"


def operate_widgets(page, screenshots) -> None:
    """Type another sentence, and choose fewer layers: both outputs change."""
    sentence = page.locator(".widget-text input").first
    sentence.scroll_into_view_if_needed()
    table = page.locator(".widget-html-content table").first
    wait_for(lambda: "soup" in table.inner_text(), 30)
    sentence.fill("Nobody has ever seen this sentence.")
    sentence.press("Enter")
    wait_for(lambda: "nobody has ever seen this sentence" in table.inner_text(), 30, table.inner_text)
    page.screenshot(path=screenshots / "lab_panel_sentences.png")
    slider = page.locator(".widget-slider .noUi-handle").first
    slider.scroll_into_view_if_needed()
    picture = page.locator(".widget-html-content img").first
    before = picture.get_attribute("alt")
    slider.press("ArrowLeft")
    wait_for(lambda: page.locator(".widget-html-content img").first.get_attribute("alt") != before, 30)
    page.screenshot(path=screenshots / "lab_panel_layers.png")
