"""Bars: what a reader sees while something works."""

import re
import subprocess
import sys

import pytest

from stlib import progress
from stlib.encoding import EncodeOnce
from stlib import pace, progress
from stlib.data import nli
from stlib.model import EncodeOnce
from stlib.sources import Source


@pytest.fixture
def shown(monkeypatch, capsys):
    """A function that returns what bars have written, with bars on: they are off in all other tests."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return lambda: capsys.readouterr().err


def test_a_bar_is_a_line_of_text_where_a_program_asks_for_one(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    with progress.bar(total=200, desc="training", unit="steps", delay=0) as bar:
        bar.update(34)
        bar.set_postfix(loss="0.834")
    assert re.search(r"\rtraining: 34/200 steps, \S+ left, loss=0\.834", shown())


def test_two_bars_in_text_share_one_line(monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    for _ in progress.bar(range(2), desc="STS", unit="tasks", delay=0):
        list(progress.bar(range(3), desc="encoding", unit="batches", delay=0))
    written = shown()
    assert "STS: 0/2 tasks" in written
    assert "encoding: 0/3 batches" in written
    assert "\n" not in written.rstrip("\n")


def test_work_of_less_than_a_second_shows_no_bar(shown):
    assert list(progress.bar(range(3))) == [0, 1, 2]
    assert shown() == ""


def test_no_bar_where_they_are_off(monkeypatch, shown):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert progress.disabled()
    assert list(progress.bar(range(3), delay=0)) == [0, 1, 2]
    assert shown() == ""


def test_encoding_shows_its_batches(base, monkeypatch, shown):
    monkeypatch.setenv("STLIB_PROGRESS", "text")
    delayed = progress.bar
    monkeypatch.setattr(progress, "bar", lambda *a, **options: delayed(*a, **{**options, "delay": 0}))
    EncodeOnce(base).encode(["a cat", "two dogs are running"])
    assert "encoding: 0/2 batches" in shown()


def test_a_bar_needs_no_notebook():
    """In a plain process, where IPython is not imported, bars go to the terminal."""
    code = "from stlib import progress; print(list(progress.bar(range(2), delay=0, desc='work')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1]\n"
