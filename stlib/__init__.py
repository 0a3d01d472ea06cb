"""Helpers of the course: load the base model, build the data, train, evaluate, plot.

Names are imported when they are first used, so that ``import stlib`` stays quick.
"""

import importlib

# Not left for later: once the module stlib.setup is imported, stlib.setup would be that module.
from stlib.setup import prepare, setup

__version__ = "0.1.0"

_ROOMS = {
    "auditing": ("audit",),
    "cards": ("baselines", "published_card", "published_log"),
    "data": ("NLI_LABELS", "classification", "nli", "sts"),
    "errors": ("UsageError",),
    "evaluate": ("nli_scores", "probe_scores", "probe_table", "sts_scores", "sts_table"),
    "model": ("EncodeOnce", "NLIClassifier", "load_base", "load_classifier", "load_encoder", "load_model"),
    "recipes": ("RECIPES", "get_recipe"),
    "runs": ("Run",),
    "settings": ("get_profile",),
    "sources": ("available_tasks", "get_source"),
    "train": ("find_or_train",),
    "trainer": ("ProgressBar",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("plots", "train")
__all__ = [*_HOME, *_MODULES, "prepare", "setup"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'stlib' has no attribute {name!r}")
    room = importlib.import_module(f"stlib.{_HOME.get(name, name)}")
    return getattr(room, name) if name in _HOME else room


def __dir__() -> list[str]:
    return __all__
