"""Results of long runs, one JSON file each, with the command, versions, hardware and data fingerprint that made them."""

import json
from functools import cache
from importlib.resources import files


@cache
def load(name: str) -> dict:
    """The record ``NAME.json``, such as ``forensics`` or ``evaluation``."""
    return json.loads((files("stlib.records") / f"{name}.json").read_text(encoding="utf-8"))
