"""What every script shares that writes a record: its frame, the name of a run's folder, and what is kept of a run."""

from pathlib import Path

from stlib.runs import read_json, versions, write_json
from stlib.settings import describe_device

KEPT = ("recipe", "rows", "steps", "data_fingerprint", "engine", "precision", "hardware", "seconds", "head_moved", "versions")  # fmt: skip


def run_name(name: str, seed: int) -> str:
    """Return the name of a run's folder, for something called ``name``."""
    return f"{name.replace(' ', '_').replace(',', '')}-seed{seed}"


def kept(info: dict) -> dict:
    """Return what a record keeps of a run's ``run.json``."""
    return {key: info[key] for key in KEPT}


def joined(path: Path, rows: list[dict], *key: str) -> list[dict]:
    """Return the rows that the record ``path`` has and that ``rows`` do not make again (by the fields ``key``), then ``rows``."""
    old, made = read_json(path), {tuple(row[name] for name in key) for row in rows}
    left = [row for row in old["runs"] if tuple(row[name] for name in key) not in made]
    return [{"versions": old["versions"], **row} for row in left] + rows


def record(path: Path, what: str, command: str, results: list[dict] | None = None, under: str = "runs", **more) -> None:
    """Write a record: what was measured, the command, data fingerprint, hardware and versions, ``more``, then the results.

    Training runs bring their own fingerprint, hardware and versions; the record says these once, and the minutes in all.

    Args:
        path: the JSON file.
        what: what was measured, in words.
        command: what to type to measure it again.
        results: a list of them, if there is one, such as training runs.
        under: the name that the record has for this list.
        more: what else the record says, also instead of what it would say of this machine.
    """
    frame = {"what": what, "command": command, "data_fingerprint": None}
    frame |= {"hardware": describe_device(), "versions": versions()}
    if results and set(KEPT) <= results[0].keys():
        frame |= {key: results[0][key] for key in ("data_fingerprint", "hardware", "versions")}
        more["minutes"] = round(sum(run["seconds"] for run in results) / 60)
        results = [{key: value for key, value in run.items() if key != "versions"} for run in results]
    write_json(path, {**frame, **more, **({} if results is None else {under: results})})
