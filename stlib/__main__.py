"""The command line: python -m stlib train | evaluate | predict | card | bench."""

import argparse
import sys
from pathlib import Path

DATA = "mini, hub or a folder with parquet files"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 on success, 2 with one line on standard error for bad input."""
    options = make_parser().parse_args(arguments)
    from stlib.errors import UsageError

    try:
        options.run(options)
    except UsageError as error:
        print(f"stlib {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be read or written
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"stlib {options.command}: {reason}: check the path, its permissions and the space left", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. Options of ``train`` that are not given are left out of its namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m stlib", description="Train, evaluate and ask the models of the course."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train", help="train a recipe and write a run folder", argument_default=argparse.SUPPRESS
    )
    train.add_argument("--recipe", help="its name, such as card, trained_head or ranking_soup (default: card)")
    train.add_argument("--profile", help="mini, small or full (default: mini, or small with --data)")
    train.add_argument("--out", type=Path, help="the run folder (default: one under runs/)")
    train.add_argument("--resume", action="store_true", help="continue the unfinished run in --out")
    train.add_argument("--data", help=DATA)
    train.add_argument("--nli-split", help="rows to train on, such as train[:20000] or validation+test")
    train.add_argument(
        "--max-steps", type=int, help="stop after so many steps; the schedule stays that of the whole run"
    )
    train.add_argument("--seed", type=int, help="of head, order and dropout (default: 42)")
    train.add_argument("--log-every", type=int, help="steps between two rows of log.csv")
    train.add_argument(
        "--start-from",
        "--start",
        dest="start",
        help="a run or model folder to train on (torchrun takes --start for its own option)",
    )
    train.add_argument("--engine", help="packed or stock (default: packed on a processor, else stock)")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="score a model on STS, NLI and classification tasks")
    evaluate.add_argument("model", help="base, a run folder or a model folder")
    evaluate.add_argument(
        "--tasks", help="a comma-separated list, such as sts13-sts,nli,banking77 (default: the profile's)"
    )
    evaluate.add_argument("--profile", help="mini, small or full (default: mini, or small with --data)")
    evaluate.add_argument("--data", help=DATA)
    evaluate.add_argument(
        "--nli-split", help="what the fresh head of the task nli-probe is trained on (default: the profile's)"
    )
    evaluate.add_argument("--subsets", action="store_true", help="also score each subset of an STS task")
    evaluate.add_argument("--protocol", help="of the probes: senteval or mteb (default: both)")
    evaluate.add_argument("--precision", default="fp32", help="of the encoder: fp32 or bf16 (default: fp32)")
    evaluate.add_argument("--json", type=Path, help="also write the scores to this file")
    evaluate.set_defaults(run=run_evaluate)

    predict = commands.add_parser("predict", help="label pairs as entailment, neutral or contradiction")
    predict.add_argument("model", help="a run folder or a model folder with a head")
    predict.add_argument("--premise")
    predict.add_argument("--hypothesis")
    predict.add_argument("--input", type=Path, help="a CSV file with the columns premise and hypothesis, or -")
    predict.add_argument("--output", type=Path, help="the CSV file to write: the input with label and probabilities")
    predict.add_argument(
        "--skip-bad-rows", action="store_true", help="leave out rows without a sentence, and say which"
    )
    predict.set_defaults(run=run_predict)

    card = commands.add_parser(
        "card", help="write a run's model card with its scores, or compare it with the published one"
    )
    card.add_argument("run_folder", type=Path, metavar="RUN", help="a run folder")
    card.add_argument("--data", help=f"{DATA}, for the scores (default: the profile's)")
    card.add_argument("--model-id", help="the model's name on the hub, USER/NAME, for the card's example code")
    card.add_argument("--compare", action="store_true", help="only compare the card that is there, section by section")
    card.set_defaults(run=run_card)

    bench = commands.add_parser(
        "bench", help="time a training step: the library as it is, tuned, and the packed engine"
    )
    bench.add_argument("--steps", type=int, default=24, help="steps per turn (default: 24)")
    bench.add_argument("--rounds", type=int, default=3, help="turns of each engine (default: 3)")
    bench.add_argument(
        "--recipe", help="time this recipe with both engines (default: the library's defaults, all variants)"
    )
    bench.add_argument("--data", help=f"{DATA} (default: mini)")
    bench.add_argument("--nli-split", help="rows to train on (default: the profile's)")
    bench.add_argument("--json", type=Path, help="also write the result to this file")
    bench.set_defaults(run=run_bench)
    return parser


def chosen_profile(options):
    """Return the profile: ``--data`` without ``--profile`` means ``small``."""
    from stlib.settings import get_profile

    own_data = getattr(options, "data", None) not in (None, "mini")
    return get_profile(getattr(options, "profile", None) or ("small" if own_data else None))


def run_train(options) -> None:
    from stlib.settings import is_first_process
    from stlib.train import train

    asked = {name: value for name, value in vars(options).items() if name not in ("command", "run")}
    run = train(**{**asked, "profile": chosen_profile(options).name})
    info = run.info
    if is_first_process():
        print(
            f"{info['steps']:,} steps in {info['seconds']:.0f} s, final loss {info['final_loss']:.4f}; "
            f"run folder: {run.folder}"
        )


def run_evaluate(options) -> None:
    from stlib.evaluate import PROTOCOLS, suite
    from stlib.runs import versions, write_json
    from stlib.sources import get_source

    profile = chosen_profile(options)
    source = get_source(options.data, profile)
    tasks = chosen_tasks(options.tasks, profile, source)
    encoder, classifier = load_model(options.model)
    if "nli" in tasks and classifier is None:
        raise_usage(f"{options.model} has no NLI head: leave nli out of --tasks, or name a run folder")
    protocols = PROTOCOLS if options.protocol is None else (options.protocol,)
    model, split = classifier if "nli" in tasks else encoder, options.nli_split or profile.train_split
    results = []
    for row in suite(model, tasks, source, protocols, options.subsets, options.precision, split):
        results.append(row)
        print(describe_row(row), flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        asked = {"model": options.model, "source": str(source), "precision": options.precision}
        write_json(options.json, {**asked, "versions": versions(), "results": results})


def describe_row(row: dict) -> str:
    """Return one line on one row of ``evaluate.suite``."""
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    kind = row.get("subset") or row.get("protocol") or "head"
    start = f"{row['task']:18s} {kind:18s} n={row['n']:<6d}"
    if "spearman" in row:
        if row["spearman"] is None:
            return f"{start} no correlation is defined"
        return f"{start} Spearman {row['spearman']:.2f}{interval}, Pearson {row['pearson']:.2f}"
    more = (
        f", macro F1 {row['macro_f1']:.2f}, calibration error {row['calibration_error']:.2f}" if kind == "head" else ""
    )
    return f"{start} accuracy {row['accuracy']:.2f}{interval}{more}"


def chosen_tasks(text: str | None, profile, source) -> list[str]:
    """Return the tasks named in ``--tasks``, or those of the profile that the source has."""
    from stlib.sources import available_tasks

    if text is None:
        have, missing = available_tasks(profile.sts_tasks + profile.classification_tasks, source)
        if missing:
            print(f"not in {source}: {', '.join(missing)}", file=sys.stderr)
        return have
    tasks = [task.strip() for task in text.split(",") if task.strip()]
    _, missing = available_tasks(tuple(task for task in tasks if not task.startswith("nli")), source)
    if missing or not tasks:
        wanted = missing[0] if missing else text
        raise_usage(f"there is no task {wanted!r} in {source}: name tasks with --tasks, and where they are with --data")
    return tasks


def load_model(name: str):
    """Return the encoder called ``name`` and its classifier, or None for the latter if there is no head."""
    from stlib.model import HEAD_WEIGHTS, load_base, load_classifier, load_encoder
    from stlib.runs import find_model_folder

    if name == "base":
        return load_base(), None
    folder = find_model_folder(name)
    if (folder / HEAD_WEIGHTS).exists():
        classifier = load_classifier(folder)
        return classifier.encoder, classifier
    return load_encoder(folder), None


def run_predict(options) -> None:
    from stlib.predict import label_file

    one_pair = options.premise is not None and options.hypothesis is not None
    if one_pair == (options.input is not None):
        raise_usage("give either --premise and --hypothesis, or --input pairs.csv")
    if options.input is not None and options.output is None:
        raise_usage("--input needs --output, the CSV file to write")
    _, classifier = load_model(options.model)
    if classifier is None:
        raise_usage(f"{options.model} has no NLI head: name a run folder trained with SoftmaxLoss")
    if options.input is not None:
        print(label_file(classifier, options.input, options.output, options.skip_bad_rows))
        return
    (chances,) = classifier.predict_proba([options.premise], [options.hypothesis])
    rest = ", ".join(f"{label} {chance:.3f}" for label, chance in zip(classifier.labels, chances, strict=True))
    print(f"{classifier.labels[int(chances.argmax())]} ({rest})")


def run_card(options) -> None:
    from stlib.cards import compare, write_card
    from stlib.runs import Run
    from stlib.settings import get_profile
    from stlib.sources import get_source

    run = Run.load(options.run_folder)
    if options.compare:
        print(comparison_text(compare((run.folder / "README.md").read_text(encoding="utf-8"))))
        return
    path = write_card(run, get_source(options.data, get_profile(run.info["profile"])), model_id=options.model_id)
    print(f"model card written: {path}, and the same in {run.model_folder}")


def comparison_text(differences, width: int = 160) -> str:
    """Return what ``cards.compare`` found as text: one line per section, and below it the facts that differ."""
    lines = []
    for section, verdict, why, details in differences.itertuples(index=False):
        lines.append(f"{verdict:10s}  {section}" + (f"  ({why})" if why else ""))
        details = [detail.replace("\n", " ") for detail in details]
        lines += [f"{'':14s}{detail if len(detail) <= width else detail[: width - 1] + '…'}" for detail in details]
    verdicts = list(differences["verdict"])
    counts = [f"{verdicts.count(name)} {name}" for name in ("same", "differs", "only there", "only here")]
    return "\n".join([*lines, "", f"sections: {', '.join(counts)}"])


def run_bench(options) -> None:
    from stlib.data import nli, train_split
    from stlib.fast import bench
    from stlib.recipes import get_recipe
    from stlib.runs import write_json
    from stlib.sources import get_source

    if options.steps <= bench.SKIPPED or options.rounds < 1:
        raise_usage(
            f"--steps is {options.steps} and --rounds {options.rounds}: give more than {bench.SKIPPED} and at least 1"
        )
    profile = chosen_profile(options)
    source, split = get_source(options.data, profile), options.nli_split or train_split(profile)
    recipe = get_recipe(options.recipe) if options.recipe else None
    result = bench.run(nli(split, source), options.steps, options.rounds, f"{split} from {source}", recipe)
    print("\n" + bench.table(result))
    if options.json:
        command = f"python -m stlib bench --steps {options.steps} --rounds {options.rounds}"
        more = {"--recipe": options.recipe, "--data": options.data, "--nli-split": options.nli_split}
        command += "".join(f" {name} {value}" for name, value in more.items() if value)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, {"command": command, **result})


def raise_usage(text: str) -> None:
    from stlib.errors import UsageError

    raise UsageError(text)


if __name__ == "__main__":
    sys.exit(main())
