"""Results of long runs, one JSON file each, with the command, versions, hardware and data fingerprint that made them."""

import json
from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def load(name: str) -> dict:
    """The record ``NAME.json``, such as ``forensics`` or ``evaluation``."""
    return json.loads((files("stlib.records") / f"{name}.json").read_text(encoding="utf-8"))


def table(name: str) -> pd.DataFrame:
    """The recorded runs of ``NAME.json``, one row each."""
    return pd.DataFrame(load(name)["runs"])
