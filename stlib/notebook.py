"""What every notebook does first."""

import logging
import warnings

from stlib.model import hide_card_bar
from stlib.profiles import Profile, best_device, get_profile
from stlib.sources import get_source


def setup(profile: str | None = None) -> Profile:
    """Choose the profile, quieten known noise, set the look of figures, and say in one line what will be used.

    Args:
        profile: ``mini``, ``small`` or ``full``; ``STLIB_PROFILE`` or ``mini`` by default.
    """
    import matplotlib.pyplot as plt

    chosen = get_profile(profile)
    quieten()
    plt.rcParams.update(
        {"figure.dpi": 100, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True, "font.size": 11}
    )
    device = best_device()
    where = "no GPU here" if device == "cpu" else f"GPU here ({device})"
    print(f"profile {chosen.name}: data from {get_source(None, chosen)}; {where}")
    return chosen


def quieten() -> None:
    """Silence, by name, the notes of libraries that a learner can do nothing about."""
    hide_card_bar()
    for name in ("httpx", "filelock", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message="IProgress not found")
