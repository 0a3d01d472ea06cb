"""Model soups: the weights of several runs that started from the same model, averaged into one model."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from stlib.errors import UsageError
from stlib.model import load_encoder, quiet_loading
from stlib.runs import Run, replace_folder, write_json


def average_runs(runs: Sequence[Run], out: str | Path) -> Run:
    """Average the encoders of ``runs`` and write the result as a run folder of its own, without a head.

    Runs that differ in their seed alone end near each other, and what is chance in each of them partly cancels in the
    mean; asking it costs no more than asking one (Wortsman et al. 2022, arXiv 2203.05482).

    Args:
        runs: two or more finished runs of one recipe from one start.
        out: the run folder to write. ``run.json`` is that of the first run, with the names and seeds of all under
            ``averaged``, and steps and seconds added up.

    Raises:
        UsageError: fewer than two runs, runs of different recipes or starts, or a folder that is in use.
    """
    out = Path(out)
    if len(runs) < 2:
        raise UsageError(f"there is {len(runs)} run to average: name two or more")
    for name in ("recipe", "start", "profile", "data_fingerprint"):
        if any(run.info.get(name) != runs[0].info.get(name) for run in runs):
            raise UsageError(
                f"the runs to average differ in their {name}: average runs that differ in their seed alone"
            )
    if out.exists():
        raise UsageError(f"{out} exists already: choose another folder for the average, or remove it")
    with quiet_loading():
        models = [load_encoder(run, "cpu") for run in runs]
        temporary = out.with_name(out.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        average(models).save_pretrained(str(temporary / "model"))
    info = {
        **runs[0].info,
        "averaged": [{"run": run.folder.name, "seed": run.info["seed"]} for run in runs],
        "head_moved": None,
        "steps": sum(run.info["steps"] for run in runs),
        "seconds": round(sum(run.info["seconds"] for run in runs), 1),
    }
    write_json(temporary / "run.json", info)
    replace_folder(temporary, out)
    return Run.load(out)


def average(models: Sequence[SentenceTransformer]) -> SentenceTransformer:
    """The first of ``models``, its weights replaced by the mean of all."""
    states = [model.state_dict() for model in models]
    mean = {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    models[0].load_state_dict(mean)
    return models[0]
