"""What the tools that record several training runs share: the name of a run, what is kept of it, and the record's frame."""

KEPT = ("recipe", "rows", "steps", "data_fingerprint", "engine", "precision", "hardware", "seconds", "head_moved", "versions")  # fmt: skip


def run_name(name: str, seed: int) -> str:
    """The folder of a run, for something called ``name``."""
    return f"{name.replace(' ', '_').replace(',', '')}-seed{seed}"


def kept(info: dict) -> dict:
    """What a record keeps of a run's ``run.json``."""
    return {key: info[key] for key in KEPT}


def record(what: str, command: str, runs: list[dict], data_fingerprint: str, **more) -> dict:
    """A record of ``runs``; hardware and versions, which all runs share, stand at its top, ``more`` before the runs."""
    return {
        "what": what,
        "command": command,
        "data_fingerprint": data_fingerprint,
        "hardware": runs[0]["hardware"],
        "versions": runs[0]["versions"],
        **more,
        "minutes": round(sum(run["seconds"] for run in runs) / 60),
        "runs": [{key: value for key, value in run.items() if key != "versions"} for run in runs],
    }
