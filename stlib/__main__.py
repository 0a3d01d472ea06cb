"""The command line: python -m stlib train | evaluate | predict | card | data | bench."""

import argparse
import importlib
import sys
from pathlib import Path

import stlib  # its names are loaded when they are first used
from stlib.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong as the commands do, in one line, without the usage."""

    def error(self, message: str):
        raise UsageError(message)


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 on success, 2 with one line on standard error for bad input, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    status = 2
    try:
        options = make_parser().parse_args(arguments)
        for name, value in vars(options).items():
            if isinstance(value, str) and not value.strip():  # such as an unset variable of the shell
                raise UsageError(f"{name} is blank: write a value, or leave it out")
        if getattr(options, "json", None):  # before the work, which may take hours
            options.json = importlib.import_module("stlib.settings").output_file(options.json)
        COMMANDS[options.command][0](options)
        return 0
    except UsageError as error:
        problem = str(error)
    except OSError as error:  # a full disk, a folder that may not be read or written
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        problem = f"{reason}: check the path, its permissions and the space left"
    except KeyboardInterrupt:
        goes_on = "; a training that has begun goes on with --resume" if arguments[:1] == ["train"] else ""
        problem, status = f"interrupted{goes_on}", 130
    print(f"{' '.join(['stlib', *arguments[:1]])}: {problem}", file=sys.stderr)
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(prog="python -m stlib", description="Train, evaluate and ask the models of the course.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, about, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=about)
        for argument, meaning in arguments.items():
            command.add_argument(*argument.split(), help=meaning, **KINDS.get(argument, {}))
    return parser


def chosen_profile(options: argparse.Namespace):
    """Return the profile: with ``--data`` it is not ``mini``, but ``small``, unless ``--profile`` says so."""
    own_data = options.data not in (None, "mini")
    profile = stlib.get_profile(asked := getattr(options, "profile", None))
    return stlib.get_profile("small") if own_data and not asked and profile.name == "mini" else profile


def run_train(options: argparse.Namespace) -> None:
    from stlib.settings import is_first_process

    asked = {name: value for name, value in vars(options).items() if name != "command" and value is not None}
    run = stlib.train.train(**{**asked, "profile": chosen_profile(options).name})
    if is_first_process():
        steps, seconds, loss = (run.info[name] for name in ("steps", "seconds", "final_loss"))
        print(f"{steps:,} steps in {seconds:.0f} s, final loss {loss:.4f}; run folder: {run.folder}")


def run_evaluate(options: argparse.Namespace) -> None:
    from stlib import evaluate, runs

    profile, protocols = chosen_profile(options), (options.protocol,) if options.protocol else evaluate.PROTOCOLS
    source = stlib.get_source(options.data, profile)
    tasks, split = chosen_tasks(options.tasks, profile, source), options.nli_split or profile.train_split
    model = stlib.load_base() if options.model == "base" else stlib.load_model(runs.find_model_folder(options.model))
    results = []
    for row in evaluate.suite(model, tasks, source, protocols, options.subsets, options.precision, split):
        found = "" if results and results[-1]["task"] == row["task"] else f" ({row['data']})"
        results.append(row)
        print(describe_row(row) + found, flush=True)
    asked = {"model": options.model, "source": str(source), "precision": options.precision}
    save(options.json, {**asked, "units": UNITS, "versions": runs.versions(), "results": results})


def save(path: Path | None, content: dict) -> None:
    """Write what a command found to the file of ``--json``, if one is named."""
    from stlib.runs import write_json

    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def describe_row(row: dict) -> str:
    """Return one line on one row of ``evaluate.suite``."""
    found = {title: row.get(title.lower().replace(" ", "_")) for title in FIGURES}
    figures = [f"{title} {value:.2f}" for title, value in found.items() if value is not None]
    if row["low"] is not None:
        figures[0] += f" [{row['low']:.2f}, {row['high']:.2f}]"
    kind = row.get("subset") or row.get("protocol") or row["split"]
    return f"{row['task']:18s} {kind:18s} n={row['n']:<6d} {', '.join(figures) or 'no correlation is defined'}"


def chosen_tasks(text: str | None, profile, source) -> list[str]:
    """Return the tasks named in ``--tasks``, each once, or those of the profile that the source has."""
    own = profile.sts_tasks + profile.classification_tasks
    tasks, missing = ([task.strip() for task in text.split(",")], []) if text else stlib.available_tasks(own, source)
    if not any(tasks):
        wanted = ", ".join(missing) or text
        raise UsageError(f"there is no task {wanted} in {source}: name others with --tasks, or their place with --data")
    if missing:
        print(f"not in {source}: {', '.join(missing)}", file=sys.stderr)
    return list(dict.fromkeys(filter(None, tasks)))


def run_predict(options: argparse.Namespace) -> None:
    from stlib.predict import COLUMNS, label_file
    from stlib.runs import find_model_folder

    files = ("input", "output")
    given = tuple(name for name in (*COLUMNS, *files) if getattr(options, name) is not None)
    if given not in (COLUMNS, files):
        raise UsageError("give either --premise and --hypothesis, or --input pairs.csv and --output labels.csv")
    if options.model == "base":
        raise UsageError("base has no NLI head: name a run folder trained with SoftmaxLoss")
    classifier = stlib.load_classifier(find_model_folder(options.model))
    if given == files:
        return print(label_file(classifier, Path(options.input), Path(options.output), options.skip_bad_rows))
    (chances,) = classifier.predict_proba([options.premise], [options.hypothesis])
    rest = ", ".join(f"{label} {chance:.3f}" for label, chance in zip(classifier.labels, chances, strict=True))
    print(f"{classifier.labels[int(chances.argmax())]} ({rest})")


def run_card(options: argparse.Namespace) -> None:
    from stlib import auditing, cards

    if options.run == "audit" and options.file:
        card = Path(options.file).resolve()
        if options.json and options.json.resolve() in (card, card / "README.md"):
            raise UsageError(f"--json would overwrite the card {options.json}: name another file")
        found = stlib.audit(auditing.load_text(options.file))
        print(auditing.describe(found))
        return save(options.json, {"card": options.file, **found})
    if options.file or options.json or (options.run == "audit" and not Path("audit").is_dir()):
        raise UsageError("to audit a card, write: card audit FILE [--json OUT]; else name one run folder")
    run = stlib.Run.load(options.run)
    if options.compare:
        return print(cards.comparison_text(cards.compare((run.folder / "README.md").read_text(encoding="utf-8"))))
    source = stlib.get_source(options.data, stlib.get_profile(run.info["profile"]))
    path = cards.write_card(run, source, model_id=options.model_id)
    print(f"model card written: {path}, and the same in {run.model_folder}")


def run_data(options: argparse.Namespace) -> None:
    from stlib.convert import convert

    print("\n".join(convert(options.source, options.folder, options.name)))


def run_bench(options: argparse.Namespace) -> None:
    from stlib import data, recipes, runs, settings
    from stlib.fast import bench

    steps, rounds = options.steps, options.rounds
    if steps <= bench.SKIPPED or rounds < 1:
        raise UsageError(f"--steps is {steps} and --rounds {rounds}: give more than {bench.SKIPPED} and at least 1")
    profile = chosen_profile(options)
    source, split = stlib.get_source(options.data, profile), options.nli_split or profile.train_split
    recipe = stlib.get_recipe(options.recipe) if options.recipe else bench.LIBRARY_DEFAULTS
    if recipe.data != "nli" or recipe.loss == "gist":
        needs = "a second model on every batch" if recipe.loss == "gist" else f"pairs of {recipe.data}"
        raise UsageError(f"the recipe {recipe.name} needs {needs}: time one that needs NLI pairs alone")
    variants, pairs = bench.BOTH_ENGINES if options.recipe else bench.VARIANTS, stlib.nli(split, source)
    table = bench.compare(recipes.training_rows(recipe, pairs), steps, rounds, variants, print, recipe)
    print("\n" + table.to_string(index=False))
    asked = {name: value for name, value in vars(options).items() if value and name not in ("command", "json")}
    given = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items()]
    about = {
        "what": f"recipe {recipe.name}, training steps of {bench.BATCH} pairs, {rounds} rounds of {steps} steps; "
        f"the first {bench.SKIPPED} of a turn not timed",
        "command": " ".join(["python -m stlib bench", *given]),
        "data": f"{len(pairs):,} pairs: {split} from {source}",
        "data_fingerprint": data.fingerprint(pairs),
        "hardware": settings.describe_device(),
        "versions": runs.versions(),
    }
    save(options.json, {**about, "rows": table.to_dict("records")})


# The figures of a row of scores as they are printed, the one with an interval first.
FIGURES = ("Spearman", "Pearson", "accuracy", "macro F1", "calibration error")
UNITS = "percent, for correlations x 100; low to high is the 95 % interval of the first figure; n counts rows"
DATA = "mini, hub or a folder with parquet files"
SIZES = {"--profile": "mini, small or full (default: mini, or small with --data)", "--data": DATA}
# What each command does, its help, and its arguments with theirs.
COMMANDS = {
    "train": (run_train, "train a recipe and write a run folder", {
        "--recipe": "its name, such as card, trained_head or ranking_soup (default: card)",
        **SIZES,
        "--out": "the run folder (default: one under runs/)",
        "--resume": "continue the unfinished run in --out",
        "--nli-split": "rows to train on, such as train[:20000] or validation+test",
        "--max-steps": "stop after so many steps; the schedule stays that of the whole run",
        "--seed": "of head, order and dropout (default: 42)",
        "--log-every": "steps between two rows of log.csv",
        "--start --start-from": "a run or model folder to train on (torchrun takes --start for its own option)",
        "--engine": "packed or stock (default: packed on a processor, else stock)",
    }),
    "evaluate": (run_evaluate, "score a model on STS, NLI and classification tasks", {
        "model": "base, a run folder or a model folder",
        "--tasks": "a comma-separated list, such as sts13-sts,nli,mnli:validation_matched (default: the profile's)",
        **SIZES,
        "--nli-split": "what the fresh head of the task nli-probe is trained on (default: the profile's)",
        "--subsets": "also score each subset of an STS task",
        "--protocol": "of the probes: senteval or mteb (default: both)",
        "--precision": "of the encoder: fp32 or bf16 (default: fp32)",
        "--json": "also write the scores to this file",
    }),
    "predict": (run_predict, "label pairs as entailment, neutral or contradiction", {
        "model": "a run folder or a model folder with a head",
        "--premise": None,
        "--hypothesis": None,
        "--input": "a CSV file with the columns premise and hypothesis, or -",
        "--output": "the CSV file to write: the input with label and probabilities",
        "--skip-bad-rows": "leave out rows without a sentence, and say which",
    }),
    "card": (run_card, "write a run's model card with its scores, compare it with the published one, or audit any card", {
        "run": "a run folder, or the word audit",
        "file": "after audit: a model card, a folder with README.md, or a model's name on the hub",
        "--data": f"{DATA}, for the scores (default: the profile's)",
        "--model-id": "the model's name on the hub, USER/NAME, for the card's example code",
        "--compare": "only compare the card that is there, section by section",
        "--json": "after audit: also write what it found to this file",
    }),
    "data": (run_data, "turn the files of SNLI, MultiNLI or STS-B, CSV files or saved data sets into a data folder", {
        "source": "a file, or a folder with one for each split",
        "folder": "the data folder to write to, for --data",
        "--name": "of the corpus (default: snli for NLI pairs, stsbenchmark-sts for STS-B, else that of the source)",
    }),
    "bench": (run_bench, "time a training step: the library as it is, tuned, and the packed engine", {
        "--steps": "steps per turn (default: 24)",
        "--rounds": "turns of each engine (default: 3)",
        "--recipe": "time this recipe with both engines (default: the library's defaults, all variants)",
        "--data": f"{DATA} (default: mini)",
        "--nli-split": "rows to train on (default: the profile's)",
        "--json": "also write the result to this file",
    }),
}  # fmt: skip
KINDS = {
    **{name: {"type": int} for name in ("--max-steps", "--seed", "--log-every")},
    **{name: {"action": "store_true"} for name in ("--resume", "--subsets", "--skip-bad-rows", "--compare")},
    "--steps": {"type": int, "default": 24},
    "--rounds": {"type": int, "default": 3},
    "--precision": {"default": "fp32", "choices": ("fp32", "bf16")},
    "--protocol": {"choices": ("senteval", "mteb")},
    "run": {"metavar": "RUN"},
    "file": {"metavar": "FILE", "nargs": "?"},
}

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a pipe on Windows lacks some letters of a card
    sys.exit(main())
