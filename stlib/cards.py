"""Model cards: read what the library generated, compare it with the published card, and add to it what really ran."""

import ast
import json
import re
from collections import defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pandas as pd
from huggingface_hub import RepoCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model_card import generate_model_card
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from yaml import YAMLError

from stlib.data import nli, sts
from stlib.errors import UsageError
from stlib.evaluate import nli_scores
from stlib.model import PLAIN_ENCODER, PLAIN_HEAD, NLIClassifier, load_model
from stlib.recipes import COMPARE_A_BATCH, LOSSES, ON_TRIPLETS, Recipe
from stlib.runs import Run, RunConfig, read_json, write_text
from stlib.settings import get_profile
from stlib.sources import HUB_IDS, Source, available_tasks, get_source

# What the trainer tells the library's card generator, which forgets it when the model is saved.
FIELDS = (
    "train_datasets", "all_hyperparameters", "non_default_hyperparameters", "training_logs", "widget", "usage_examples",
    "citations", "tags", "base_model", "base_model_revision", "language", "license", "datasets", "version", "ir_model",
)  # fmt: skip
PLAIN_USAGE = "### Direct Usage (Transformers)"  # the heading of a section that the library leaves empty


@cache
def published_card() -> dict:
    """Return the facts of the published card (the keys of ``read_card``), why a card of the course differs, and ``fingerprints``.

    These are of rows that are a corpus of the hub, as recipes train on them: pairs, triplets and scored pairs of whole splits.
    """
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def published_log() -> pd.DataFrame:
    """Return the card's 137 log rows: ``epoch``, ``step`` and ``loss``, the mean training loss over the 500 steps up to it."""
    return pd.DataFrame(published_card()["log"], columns=published_card()["log_columns"])


def baselines() -> dict:
    """Return published scores of other models, each with its source."""
    return json.loads(Path(__file__).with_name("baselines.json").read_text(encoding="utf-8"))


def read_card(text: str) -> dict:
    """Return the facts of a card that the library generated; what the card lacks is None or empty.

    ``dataset`` is the first of ``read_datasets``, ``log`` has rows of epoch, step and loss, ``sections`` the headings.
    Raises UsageError if the text lacks a card's front matter, or a part of it cannot be read.
    """
    if REGEX_YAML_BLOCK.match(text) is None:
        raise UsageError("this is no model card: its front matter between two lines of three dashes is missing")
    try:
        return facts_of(text)
    except (ValueError, TypeError, SyntaxError, YAMLError) as error:
        raise UsageError(f"the card cannot be read ({' '.join(str(error).split())}): correct it") from error


def facts_of(text: str) -> dict:
    """Return what ``read_card`` does, where nothing catches the errors of the parsers."""
    parts = sections(text)
    under, lists = defaultdict(str, parts), defaultdict(dict)
    for heading, part in parts.items():  # "- **Name:** value", "- `name`: value" and "- Name: value"
        lists[heading] = dict(re.findall(r"(?m)^- [*`]*([^:*`]+)`?:\** ?(.*)$", part))
    model = lists["### Model Description"]  # what is unknown stands in a comment there, and is left out
    base = re.match(r"\[(?P<id>.+?)\](?:.*at revision (?P<revision>\w+))?", model.get("Base model", ""))
    changed, every = (lists[f"#### {which} Hyperparameters"].items() for which in ("Non-Default", "All"))
    sentences = find(r"^sentences = (\[[\s\S]*?^\])", under["### Direct Usage (Sentence Transformers)"])
    log = read_log(under["### Training Logs"]).dropna().itertuples(index=False)
    return {
        "front_matter": RepoCard(text).data.to_dict(),
        "base_model": base and base.groupdict(),
        "model": {
            "type": model.get("Model Type"),
            "max_seq_length": as_python(find(r"^\d+", model.get("Maximum Sequence Length", ""))),
            "dimensions": as_python(find(r"^\d+", model.get("Output Dimensionality", ""))),
            "similarity": model.get("Similarity Function"),
            "architecture": find(r"```\n([\s\S]*?)\n```", under["### Full Model Architecture"]),
            "training_datasets": re.findall(r"(?m)^    - \[?(.+?)\]?(?:\(.*)?$", under["### Model Description"]),
            "language": model.get("Language"),
            "license": model.get("License"),
            "modalities": model.get("Supported Modality"),
        },
        "sources": {name: find(r"\((.+)\)$", link) for name, link in lists["### Model Sources"].items()},
        "usage_sentences": ast.literal_eval(sentences or "[]"),
        "dataset": next(iter(read_datasets(text)), None),
        "non_default_hyperparameters": {name: as_python(value) for name, value in changed},
        "hyperparameters": {name: as_python(value) for name, value in every},
        "log": [[epoch, int(step), loss] for epoch, step, loss in log],
        "versions": lists["### Framework Versions"],
        "sections": list(parts),
    }


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading, up to the next one of any level. Headings inside code do not count."""
    text = REGEX_YAML_BLOCK.sub("", text)
    found = re.finditer(r"(?ms)^```.*?^```$|^#{1,6} [^\n]+$", text)
    headings = [match for match in found if match[0].startswith("#")]
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return {heading[0]: text[heading.end() : end].strip() for heading, end in zip(headings, ends, strict=True)}


def read_datasets(text: str) -> list[dict]:
    """Return rows, columns, statistics over ``statistics_rows`` rows, samples and loss of each training data set of a card."""
    block = find(r"^### Training Datasets?\n([\s\S]*?)(?=^###? |\Z)", text) or ""
    parts = re.split(r"(?m)^(?=#### |<details><summary>)", block)
    return [read_dataset(part) for part in parts if "\n* Columns:" in part]


def read_dataset(text: str) -> dict:
    """Return one of ``read_datasets``, from the text under its heading."""
    columns = re.findall("<code>(.*?)</code>", find(r"^\* Columns: (.+)$", text) or "")
    kinds, details = ((find(rf"^ *\| {row} +\| (.*) \|$", text) or "").split(" | ") for row in ("d?type", "details"))
    kinds, statistics, samples = dict(zip(columns, map(str.strip, kinds), strict=False)), {}, []
    for column, detail in zip(kinds, details, strict=False):
        lengths = {name: as_python(value) for name, value in re.findall(r"(min|mean|max): ([\d.]+) tokens", detail)}
        shares = {label: float(share) for label, share in re.findall(r"(\d+): ~([\d.]+)%", detail)}
        statistics[column] = {"type": kinds[column], **lengths, **({"percent": shares} if shares else {})}
    for row in re.findall(r"(?m)^ *\| <code>.*$", text):
        cells = zip(columns, re.findall("<code>(.*?)</code>", row), strict=False)
        samples.append({name: cell if kinds.get(name) == "string" else as_python(cell) for name, cell in cells})
    return {
        "rows": as_python((find(r"^\* Size: ([\d,]+)", text) or "None").replace(",", "")),
        "columns": columns,
        "statistics_rows": as_python(find(r"first (\d+) samples", text)),
        "statistics": statistics,
        "samples": samples,
        "loss": find(r"^\* Loss: .*?<code>(?:[\w.]+\.)?(\w+)</code>", text),
    }


def read_log(text: str) -> pd.DataFrame:
    """Return a card's training log: ``Epoch``, ``Step`` and ``Training Loss``, which is NaN where there is none."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = [[cell.strip(" *") for cell in line] for line in lines]
    table = pd.DataFrame([dict(zip(lines[0], row, strict=False)) for row in lines[2:]])
    table = table.reindex(columns=["Epoch", "Step", "Training Loss"]).apply(pd.to_numeric, errors="coerce")
    return table.where(table.abs() < float("inf")).dropna(subset=["Epoch", "Step"])


def find(pattern: str, text: str) -> str | None:
    """Return the group of the first match, or None."""
    return next(iter(re.findall(pattern, text, re.MULTILINE)), None)


def as_python(text: str | None):
    """Return the Python value that a text such as ``5e-05`` or ``[]`` stands for; other texts, and None, as they are."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def compare(text: str) -> pd.DataFrame:
    """Return how the card ``text`` differs from the published one: one row per section, in the order of the latter.

    The columns are ``section``, ``verdict`` (``same``, ``differs``, ``only there`` in the published card, ``only here``),
    ``why`` and ``details``, a list of the facts that differ, each as ``name: there → here``.
    """
    here, there, rows = facts_by_section(read_card(text)), facts_by_section(published_card()), []
    for section in {**there, **here}:
        details, verdict = [], "only here" if section in here else "only there"
        if section in here and section in there:
            names = {**there[section], **here[section]}
            both = ((name, *(facts[section].get(name, "(nothing)") for facts in (there, here))) for name in names)
            details = [f"{name}: {theirs} → {ours}" for name, theirs, ours in both if theirs != ours]
            verdict = "differs" if details else "same"
        why = "" if verdict == "same" else published_card()["why"].get(section, "")
        rows.append({"section": section, "verdict": verdict, "why": why, "details": details})
    return pd.DataFrame(rows)


def comparison_text(differences: pd.DataFrame, width: int = 160) -> str:
    """Return what ``compare`` found as text: one line per section, and below it the facts that differ."""
    lines, verdicts = [], list(differences["verdict"])
    for section, verdict, why, details in differences.itertuples(index=False):
        lines.append(f"{verdict:10s}  {section}" + (f"  ({why})" if why else ""))
        details = [detail.replace("\n", " ") for detail in details]
        lines += [f"{'':14s}{detail if len(detail) <= width else detail[: width - 1] + '…'}" for detail in details]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("same", "differs", "only there", "only here"))
    return "\n".join([*lines, "", f"sections: {counts}"])


def facts_by_section(card: dict) -> dict[str, dict]:
    """Return the facts of each section; none if it holds placeholders only, and is compared by its heading."""
    # Headings that hold names of the run are known by the one before them.
    general = {"": "# (title)", "### Training Dataset": "#### (the data set)", "### BibTeX": "#### (library and loss)"}
    headings = {general.get(before, heading): heading for before, heading in pairwise(["", *card["sections"]])}
    log, model = card["log"], {**card["model"], "base_model": card["base_model"] or {"id": None, "revision": None}}
    architecture = model.pop("architecture")
    facts = {
        "# (title)": {"title": headings.get("# (title)")},
        "(front matter)": {name: value for name, value in card["front_matter"].items() if name != "model-index"},
        "### Model Description": model,
        "### Model Sources": card["sources"],
        "### Full Model Architecture": {"modules": re.findall(r"\(\d\): (\w+)", architecture or ""), "printed": architecture},
        "### Direct Usage (Sentence Transformers)": {"sentences": card["usage_sentences"]},
        "#### (the data set)": card["dataset"] or {},
        "#### Non-Default Hyperparameters": card["non_default_hyperparameters"],
        "#### All Hyperparameters": card["hyperparameters"],
        "### Training Logs": {"rows": len(log), "first row": log[:1], "last row": log[-1:]},
        "### Framework Versions": card["versions"],
        "#### (library and loss)": {"heading": headings.get("#### (library and loss)")},
    }  # fmt: skip
    return {section: flatten(facts.get(section, {})) for section in ["(front matter)", *headings]}


def flatten(facts: dict, prefix: str = "") -> dict:
    """Return nested facts under names such as ``statistics.label.type``."""
    found = {}
    for name, value in facts.items():
        inner = value if isinstance(value, dict) else {}
        found |= flatten(inner, f"{prefix}{name}.") or {f"{prefix}{name}": value}
    return found


def describe_model(model: SentenceTransformer, config: RunConfig) -> None:
    """Tell the library's card generator the language, the licence and the rows, before the trainer is made.

    The hub's id of a data set is claimed only for rows of the hub, and for those of a folder that are known by their fingerprint.
    """
    data, task = model.model_card_data, config.recipe.data
    corpus, name = ("snli", "SNLI") if task == "nli" else (task, task)
    data.local_files_only = True  # else the library looks the id up on the hub, and drops it if it is offline
    data.set_language("en")
    data.license = "apache-2.0" if config.start == "base" else None  # the base model's
    if config.source == "mini corpora":
        rows = {"name": "scene grammar" if task == "nli" else "mini STS"}
    elif config.source == "the hub" or config.data_fingerprint in published_card()["fingerprints"].get(corpus, ()):
        data.datasets, rows = [HUB_IDS[corpus]], {"name": name, "id": HUB_IDS[corpus]}
    else:
        place = config.source.replace("folder", "a folder called", 1)
        which = f"{config.rows:,} rows of {config.nli_split}, fingerprint {config.data_fingerprint}"
        rows = {"name": f"{corpus} in {place}: {which}"}
    data.train_datasets = [rows]


def remember(model: SentenceTransformer, folder: Path) -> None:
    """Keep in ``folder/card.json`` what the card generator knows after training, so that a card can be written later."""
    data = model.model_card_data
    known = {name: getattr(data, name) for name in FIELDS} | {"seconds": data.get_training_duration_data()}
    write_text(folder / "card.json", json.dumps(known, indent=1, default=str) + "\n")


def recall(model: SentenceTransformer, folder: Path) -> None:
    """Tell the card generator what ``remember`` kept of a run in ``folder``; the time is kept as ``seconds``."""
    vars(model.model_card_data).update(read_json(folder / "card.json"), local_files_only=True)


class NLIEvaluator:
    """What the library's card says on the scores of encoder and head on NLI test, as if it were one of its evaluators."""

    name, description, primary_metric = "nli-test", "Natural Language Inference", "nli-test_accuracy"


def write_card(run: Run, source: Source | None = None, evaluate: bool = True, model_id: str | None = None) -> Path:
    """Write the card of a finished run to ``README.md`` of its folder and of its model. Return the path of the former.

    With ``evaluate`` it has scores on NLI test and on the profile's STS tasks that ``source`` has. ``model_id`` is the
    model's name on the hub, ``USER/NAME``. Raises UsageError if the run folder lacks ``card.json``.
    """
    if not (run.folder / "card.json").is_file():
        raise UsageError(f"{run.folder} has no card.json: it was trained without one; train the run again")
    found = load_model(run)
    classifier = found if isinstance(found, NLIClassifier) else None
    model = classifier.encoder if classifier else found
    data = model.model_card_data
    if evaluate:
        profile, source = get_profile(run.info["profile"]), source or get_source()
        for task in available_tasks(profile.sts_tasks, source)[0]:
            columns = sts(task, "test", source).select_columns(["sentence1", "sentence2", "score"])[:].values()
            EmbeddingSimilarityEvaluator(*columns, similarity_fn_names=["cosine"], name=task, write_csv=False)(model)
        if classifier:
            scores = nli_scores(classifier, nli(profile.test_split, source))
            metrics = {f"nli-test_{name}": scores[name] for name in ("accuracy", "macro_f1")}
            data.set_evaluation_metrics(NLIEvaluator(), metrics)
    # After scoring: else scores of the finished model would be rows of its training log.
    recall(model, run.folder)
    data.get_training_duration_data = lambda: data.seconds
    data.set_model_id(model_id)
    text = with_what_ran(generate_model_card(model), run.info)
    for folder in (run.model_folder, run.folder):
        write_text(folder / "README.md", text)
    return run.folder / "README.md"


def effective_settings(info: dict) -> list[tuple[str, str]]:
    """Return by name what ran, also what the trainer's arguments, and so the library's list of them, do not show."""
    recipe = Recipe(**info["recipe"])
    loss = LOSSES[recipe.loss].__name__ + ", contradictions as hard negatives" * (recipe.loss in ON_TRIPLETS)
    loss += f", scale {recipe.scale:g}" if recipe.loss in COMPARE_A_BATCH else ""
    loss += ", guided by the model it starts from" * (recipe.loss == "gist")
    loss += ", the head also sees u * v" * recipe.multiply
    loss += ", embeddings not normalized" * (not recipe.normalize)
    loss += f", on {', '.join(map(str, recipe.matryoshka))} dimensions (MatryoshkaLoss)" if recipe.matryoshka else ""
    head = "none: this loss compares embeddings"
    if recipe.loss == "softmax":
        head = "frozen at its random initialization: it was never given to the optimizer"
        if recipe.train_head:
            head = f"trained, learning rate {recipe.head_learning_rate or recipe.learning_rate:g}; it moved by {info['head_moved']:.4g}"
        head += f"; its initial weights were multiplied by {recipe.head_gain:g}" * (recipe.head_gain != 1)
    warmup = f"up over {recipe.warmup_steps:,} steps" if recipe.warmup_steps else "no warm-up"
    rows, start = recipe.kind_of_rows(), Path(info["start"].removesuffix("/model")).name
    how = "premises in random order, rows with one premise side by side" if recipe.together else "rows in random order"
    split = info["nli_split"] if recipe.data == "nli" else f"{recipe.data} {info['nli_split']}"
    return [
        ("recipe", f"`{recipe.name}`: {recipe.about}"),
        ("loss", loss),
        ("started from", "the base model" if info["start"] == "base" else f"the run or model `{start}`"),
        ("optimizer", f"AdamW, betas 0.9 and 0.999, epsilon 1e-8, learning rate {recipe.learning_rate:g}"),
        ("weight decay", f"{recipe.weight_decay:g} on the encoder's weights, 0 on its biases, LayerNorm and the head"),
        ("schedule", f"linear: {warmup}, then down to zero at step {recipe.schedule_steps:,}"),
        ("steps", f"{info['steps']:,} of {info['total_steps'] * recipe.soup:,}, {info['batch_size']} {rows} each"),
        ("batches", how + ", no text twice in a batch" * recipe.no_duplicates),
        ("classifier head", head),
        ("gradient clipping", f"norm {recipe.max_grad_norm:g}, the encoder's parameters"),
        ("dropout", f"{recipe.dropout:g}"),
        ("seed", str(info["seed"])),
        ("data", f"{info['rows']:,} {rows}, `{split}` from {info['source']}, fingerprint `{info['data_fingerprint']}`"),
        ("engine", f"{info['engine']}, {info['precision']}, {info['processes']} process{'es' if info['processes'] > 1 else ''}"),
        ("hardware", info["hardware"]),
        ("final loss", f"{info['final_loss']:.4f} (mean over the steps since the log row before)"),
    ]  # fmt: skip


def with_what_ran(card: str, info: dict) -> str:
    """Return the card with a section *Effective Settings* after the lists that it corrects, and with plain code for its model."""
    recipe, settings = Recipe(**info["recipe"]), effective_settings(info)
    table = "".join(f"| {name} | {value} |\n" for name, value in [("setting", "value"), (":--", ":--"), *settings])
    section = (
        "### Effective Settings\n\nThe lists above hold the trainer's arguments. An optimizer, a schedule or a loss that a "
        f"script brings along does not show there; this is what ran.\n\n{table}\n"
    )
    encoder = PLAIN_ENCODER if recipe.normalize else re.sub("(?m)^.*functional.normalize.*\n", "", PLAIN_ENCODER)
    usage = f"{PLAIN_USAGE}\n\n`folder` is the model's, `sentences` a list of texts:\n\n```python\n{encoder}```\n"
    if recipe.loss == "softmax" and not recipe.multiply:
        usage += f"\nThe head, with `u` of the premises and `v` of the hypotheses:\n\n```python\n{PLAIN_HEAD}```\n"
    card = re.sub(rf"<!--\n{re.escape(PLAIN_USAGE)}\n[\s\S]*?-->\n", lambda _: usage, card, count=1)
    return re.sub(r"(?m)^(?=### (?:Training (?:Logs|Time)|Framework Versions)$)", lambda _: section, card, count=1)
