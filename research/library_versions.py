"""Find out what each release of sentence-transformers does with a loss's own parameters, such as the head of SoftmaxLoss.

    python research/library_versions.py LAB --prepare                                      # once: 35 releases, from the registry
    python research/library_versions.py LAB --json stlib/records/library_versions.json     # the record
    python research/library_versions.py LAB --cards FOLDER                                 # cards as these versions write them

``LAB`` is a folder for the releases' code (no dependencies) and for older versions of what they need. In each release
``library_probe.py`` trains a tiny model with ``fit`` and with the trainer; and the lines that decide are read from its source.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

NAME, FIRST, HUB = "sentence-transformers", "2.7.0", "huggingface-hub"
PROBE = Path(__file__).resolve().parent / "library_probe.py"
DEPENDENCIES = {  # the last release that runs with them; what is not named, and all for later ones, is the environment's own
    "deps-4.44": ((3, 3, 1), ["transformers==4.44.2", "tokenizers==0.19.1", f"{HUB}==0.24.7", "accelerate==0.34.2"]),
    "deps-4.52": ((5, 7, 0), ["transformers==4.52.4", "tokenizers==0.21.1", f"{HUB}==0.33.0", "accelerate==1.7.0"]),
}
DATASETS = "datasets==3.6.0"  # with both
WHAT = (
    "whether each release's optimizer holds the loss's own parameters (the head of SoftmaxLoss), how far they move in "
    "20 steps from the same start, and whether their gradients are cleared before each batch"
)
LICENCE = "The quoted lines are from sentence-transformers, Apache License 2.0."

# ---- what decides, in the source -----------------------------------------------------------------------------------------
FIT = ("sentence_transformer/fit_mixin.py", "fit_mixin.py", "SentenceTransformer.py")  # the first that there is
TRAINER = ("base/trainer.py", "trainer.py")
FIT_OPTIMIZER = re.compile(r"param_optimizer = list\((.*)\.named_parameters\(\)\)")  # `fit` comes before `old_fit`
TRAINER_OPTIMIZER = re.compile(r"for n, p in loss_model\.named_parameters\(\)")
CLEARED = re.compile(r"self\.add_callback\(_OptimizerZeroGradCallback\(\)\)")
CLEARED_BEFORE_3 = re.compile(r"optimizer\.zero_grad\(\)")
LOSSES = ("sentence_transformer/losses", "losses")
OWN_PARAMETERS = re.compile(
    r"^class (\w+)|self\.(\w+) = (?:nn\.Linear|nn\.Parameter|copy\.deepcopy|AutoModelForCausalLM)", re.M
)


def find_line(file: tuple[str, str], pattern: re.Pattern) -> str | None:
    """Return "NAME:NUMBER: LINE" of the first line with the pattern in a file, given by name and text, or None."""
    found = (f"{file[0]}:{n}: {line.strip()}" for n, line in enumerate(file[1].splitlines(), 1) if pattern.search(line))
    return next(found, None)


def decide(fit: tuple[str, str], trainer: tuple[str, str] | None) -> dict:
    """Return what the source says on the loss's own parameters, with the lines that say it.

    ``fit`` and ``trainer`` are name and text of the files that have them; before there was a trainer, that is None.
    """
    fit_line = find_line(fit, FIT_OPTIMIZER)
    if fit_line is None:
        raise ValueError(f"{fit[0]} has no line that builds the optimizer of `fit`.")
    trainer_line = trainer and find_line(trainer, TRAINER_OPTIMIZER)
    cleared = find_line(trainer, CLEARED) if trainer else find_line(fit, CLEARED_BEFORE_3)
    return {
        "fit_head_in_optimizer": FIT_OPTIMIZER.search(fit_line)[1] != "self",
        "trainer_head_in_optimizer": trainer and trainer_line is not None,
        "gradients_cleared": cleared is not None,
        "fit_line": fit_line,
        "trainer_line": trainer
        and (trainer_line or f"{trainer[0]}: no line; transformers takes the model's parameters"),
        "clearing_line": cleared or f"{(trainer or fit)[0]}: no line; transformers clears the model's gradients only",
    }


def read_release(package: Path) -> dict:
    """Return what ``decide`` finds in a release's package folder."""

    found = [next((name for name in names if (package / name).is_file()), None) for names in (FIT, TRAINER)]
    return decide(*(name and (name, (package / name).read_text(encoding="utf-8")) for name in found))


def losses_with_parameters(package: Path) -> str:
    """Return which losses make parameters, as "SoftmaxLoss.classifier, …": a loss that only holds a frozen guide does not."""
    folder = next(package / name for name in LOSSES if (package / name).is_dir())
    found, name = {}, ""
    for path in sorted(folder.glob("*.py")):
        for of_class, attribute in OWN_PARAMETERS.findall(path.read_text(encoding="utf-8")):
            name = of_class or name
            found |= {f"{name}.{attribute}": None} if attribute else {}
    return ", ".join(found)


# ---- running the releases ------------------------------------------------------------------------------------------------


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def dependencies(version: str) -> str | None:
    """Return the name of the folder of dependencies for a version, None for the environment's own."""
    return next((name for name, (last, _) in DEPENDENCIES.items() if numbers(version) <= last), None)


def prepare(lab: Path) -> None:
    """Fetch every release since ``FIRST``, unpack it to ``LAB/st/VERSION``, and the older dependencies beside it."""
    pip = [sys.executable, "-m", "pip"]
    found = subprocess.run([*pip, "index", "versions", NAME], check=True, capture_output=True, text=True).stdout
    listed = re.search(r"Available versions: (.*)", found)[1].split(", ")
    for version in (one for one in listed if numbers(one) >= numbers(FIRST)):
        if not (lab / "st" / version).is_dir():
            command = [*pip, "download", "-q", "--no-deps", "-d", lab / "wheels", f"{NAME}=={version}"]
            subprocess.run(command, check=True)
            (wheel,) = (lab / "wheels").glob(f"*-{version}-*.whl")
            zipfile.ZipFile(wheel).extractall(lab / "st" / version)
    for name, (_, wanted) in DEPENDENCIES.items():
        if not (lab / name).is_dir():
            command = [*pip, "install", "-q", "--no-deps", "--target", lab / name, *wanted, DATASETS]
            subprocess.run(command, check=True)


def run(lab: Path, version: str, jobs: list[dict]) -> dict:
    """Run ``library_probe.py`` in one version and return its answers."""
    path = [lab / "st" / version, *([lab / dependencies(version)] if dependencies(version) else [])]
    more = {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:  # the models and checkpoints that it leaves are of no use
        (Path(folder) / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", PROBE, "jobs.json", "answers.json"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"version {version}: {done.stderr.strip().splitlines()[-1]}")
        return json.loads((Path(folder) / "answers.json").read_text(encoding="utf-8"))


def release(lab: Path, version: str) -> dict:
    """Return a release's row: what running it showed, what its source says, and whether they agree."""
    package, entry_points = lab / "st" / version / "sentence_transformers", ("fit", "trainer", "old_fit")
    read = read_release(package)
    answers = run(lab, version, [{"entry_point": name} for name in entry_points])
    results = dict(zip(entry_points, ({} if "error" in one else one for one in answers["results"]), strict=True))
    ran = [results[name] for name in ("fit", "trainer") if results[name]]
    seen = {f"{name}_head_in_optimizer": results[name].get("in_optimizer") for name in ("fit", "trainer")}
    seen["gradients_cleared"] = all(one["left_over"] == 0 for one in ran)
    differing = [key for key, value in seen.items() if value != read[key]]
    if ran and differing:
        raise RuntimeError(f"version {version}: what ran and what was read differ in {', '.join(differing)}.")
    moved = {f"{name}_head_moved": round(one["moved"], 6) if one else None for name, one in results.items()}
    norms = results["trainer"].get("gradient_norms", [None])
    return {
        "version": version,
        **{key: read[key] for key in seen},
        **moved,
        "trainer_first_gradient": norms[0] and round(norms[0], 3),
        "trainer_last_gradient": norms[-1] and round(norms[-1], 3),
        "how_known": "ran and read" if ran else "read",
        "transformers": answers["transformers"],
        "losses_with_parameters": losses_with_parameters(package),
        **{key: value for key, value in read.items() if key.endswith("_line")},
    }


# ---- cards ---------------------------------------------------------------------------------------------------------------
RANKING, COSINE = "MultipleNegativesRankingLoss", "CosineSimilarityLoss"
TRACES, CLIPPED = ["columns", "round_robin"], {"max_grad_norm": 1}
LIKE_FIT = {**CLIPPED, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "num_train_epochs": 7}
OWN = {"warmup_steps": 100, "optimizer_params": {"lr": 1e-3}}
ASKED = {"loss": "SoftmaxLoss", "evaluator": False, "traces": [], "settings": {}}
CARD_VERSIONS = ("3.0.1", "3.4.1", "4.1.0", "5.1.2", "5.4.1", "6.1.0", "6.2.0")
CARDS = [  # name after the version, versions, job
    ("fit-softmax", CARD_VERSIONS, {"logs": True}),
    ("trainer-softmax", CARD_VERSIONS, {"logs": True}),
    ("trainer-softmax-like-fit", CARD_VERSIONS, {"traces": TRACES, "settings": LIKE_FIT}),
    ("fit-ranking", ("3.0.1", "4.1.0", "6.2.0"), {"loss": RANKING, "logs": True, "evaluator": True}),
    ("fit-softmax-rate", ("4.1.0", "6.2.0"), {"logs": True, "settings": OWN}),
    ("fit-softmax-short", ("4.1.0", "5.1.2"), {"evaluator": True}),
    ("fit-cosine-two", ("4.1.0", "5.4.1"), {"loss": COSINE, "data_sets": 2}),
    ("fit-softmax-two", ("6.1.0",), {"data_sets": 2, "logs": True, "evaluator": True}),
    ("trainer-softmax-columns", ("4.1.0", "5.1.2"), {"logs": True, "traces": TRACES[:1]}),
    ("trainer-softmax-round-robin", ("4.1.0", "5.1.2"), {"evaluator": True, "traces": TRACES[1:]}),
    ("trainer-softmax-clipped", ("5.1.2",), {"settings": CLIPPED}),
    ("trainer-ranking", ("3.4.1", "4.1.0"), {"loss": RANKING, "logs": True, "evaluator": True}),
    ("trainer-cosine-two", ("3.0.1", "5.1.2"), {"loss": COSINE, "data_sets": 2, "logs": True}),
    ("trainer-softmax-two", ("6.2.0",), {"data_sets": 2, "evaluator": True, "settings": {"learning_rate": 1e-3}}),
    ("old_fit-softmax", ("3.0.1", "5.1.2", "6.2.0"), {}),
    ("fit-softmax", (FIRST,), {}),
]


def truth(version: str, job: dict, answer: dict, card: str) -> dict:
    """Return what is true of a card; its settings were used if the optimizer's highest rate is the one that it prints."""
    head = "none" if not answer["parameters"] else "frozen" if not answer["moved"] else "trained"
    if head == "trained" and answer["left_over"]:
        head = "trained, gradients added up"
    printed = re.search(r"(?:`learning_rate`|\"lr\"): ([\d.e-]+)", card)
    used = printed and ("used" if float(printed[1]) == max(answer["rates"]) else "not used")
    return {
        "version": version,
        "entry_point": job["entry_point"],
        "head": head,
        "printed_settings": used or "none printed",
        **{name: job.get(name, default) for name, default in ASKED.items()},
        "logs": "### Training Logs" in card,
        "datasets": job.get("data_sets", 1),
        **{"steps": answer["steps"], "highest_rate": max(answer["rates"]), "head_moved": answer["moved"]},
    }


def write_cards(lab: Path, folder: Path) -> None:
    """Write the cards of ``CARDS`` as ``FOLDER/VERSION-NAME.md``, and ``TRUTH.json``, which says of each what is true."""
    folder.mkdir(parents=True, exist_ok=True)
    path, truths = folder / "TRUTH.json", {}
    for version in (FIRST, *CARD_VERSIONS):
        jobs = [
            {"entry_point": name.split("-")[0], "card": str(folder.resolve() / f"{version}-{name}.md"), **job}
            for name, versions, job in CARDS
            if version in versions
        ]
        for job, answer in zip(jobs, run(lab, version, jobs)["results"], strict=True):
            card = Path(job["card"])
            if "error" in answer:
                raise RuntimeError(f"{card.stem}: {answer['error']}")
            truths[card.stem] = truth(version, job, answer, card.read_text(encoding="utf-8"))
        path.write_text(json.dumps(truths, indent=1) + "\n", encoding="utf-8")
        print(f"{version}: {len(jobs)} cards", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lab", type=Path, help="folder of the releases")
    parser.add_argument("--prepare", action="store_true", help="fetch the releases and what they need")
    parser.add_argument("--json", type=Path, help="write the record")
    parser.add_argument("--cards", type=Path, help="write cards of these versions into this folder")
    options = parser.parse_args()
    lab = options.lab.resolve()
    if options.prepare:
        prepare(lab)
    if options.cards:
        write_cards(lab, options.cards)
    if options.json:
        from frame import record

        versions = sorted((path.name for path in (lab / "st").iterdir()), key=numbers)
        with ThreadPoolExecutor(3) as pool:
            rows = list(pool.map(partial(release, lab), versions))
        record(options.json, WHAT, "python research/library_versions.py LAB --json FILE", rows, licence=LICENCE)


if __name__ == "__main__":
    main()
