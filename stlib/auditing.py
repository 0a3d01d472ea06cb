"""The audit of a model card: what trained the model, as far as its card tells, for models of sentence-transformers 3.0 on."""

import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import fill

import pandas as pd
from huggingface_hub import hf_hub_download
from packaging.version import InvalidVersion, Version
from sentence_transformers.sentence_transformer import losses

from stlib.cards import as_python, find, read_card, read_datasets, read_log, sections
from stlib.errors import UsageError

# What each version does, as read from its source; the file explains its keys.
LIBRARY = json.loads(Path(__file__).with_name("library.json").read_text(encoding="utf-8"))
BOUND = 0.74  # nats (notebook 07): the lowest that descent found for a frozen head if three labels share a premise


@dataclass(frozen=True)
class Card:
    """What the audit reads of a card; what the card lacks is None or empty."""

    facts: dict  # of ``read_card``
    text: str
    data: list[dict]  # of ``read_datasets``
    log: pd.DataFrame  # ``Epoch``, ``Step``, ``Training Loss`` (NaN where a line has none)
    losses: list[str]
    version: Version | None  # of sentence-transformers; None also if it is no version
    printed: dict  # hyperparameters
    ran: dict[str, str]  # what a section *Effective Settings* says, by name
    labels: int  # how many a SoftmaxLoss on one data set tells apart, as printed or as counted in the sample; else 0


def audit(text: str) -> dict:
    """Return what the card ``text`` tells: ``entry_point``, ``head``, ``printed_settings``, each ``{value, grade, evidence}``.

    The grade is ``certain`` (the card says so, or the source leaves nothing else), ``likely`` (several signs agree) or
    ``unknown``; evidence is a list of sentences. ``findings`` is a list of ``{about, grade, evidence}``. Raises UsageError
    if the text is no card of a SentenceTransformer by version 3.0 or later.
    """
    card = understand(text)
    entry = entry_point(card)
    findings = [*loss_findings(card), *step_findings(card), *missing(card)]
    return {
        "entry_point": entry,
        "head": head_training(card, entry["value"]),
        "printed_settings": printed_settings(card, entry["value"]),
        "findings": [{"about": about, "grade": grade, "evidence": [said]} for about, grade, said in findings],
    }


def verdict(value: str, grade: str, *evidence: str) -> dict:
    """Return a value with its grade and evidence."""
    return {"value": value, "grade": grade, "evidence": list(evidence)}


unknown = partial(verdict, "unknown", "unknown")


def describe(found: dict) -> str:
    """Return an audit as text: a line per verdict, and its evidence below it."""
    named = [{"about": name.replace("_", " "), **found[name]} for name in ("entry_point", "head", "printed_settings")]
    lines = []
    for one in [*named, *found["findings"]]:
        value = f": {one['value']}" if "value" in one else ""
        lines.append(f"{one['about']}{value} ({one['grade']})")
        lines += [fill(sentence, 88, initial_indent="    ", subsequent_indent=" " * 6) for sentence in one["evidence"]]
    return "\n".join(lines)


def load_text(name: str | Path) -> str:
    """Return the card in a file, in a folder's README.md, or of a model on the hub. Raises UsageError if there is none."""
    path = Path(name) / "README.md" if Path(name).is_dir() else Path(name)
    try:
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and path.suffix not in (".md", ".txt"):
            path = Path(hf_hub_download(str(name), "README.md"))
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # the hub's, no such file, or no text in UTF-8
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"no card could be read from {path} ({reason}): name a file, or a folder with README.md"
        ) from error


def understand(text: str) -> Card:
    """Return what the audit needs of a card. Raises UsageError if it is another kind of text, model or version."""
    text = re.sub(r"\r\n?", "\n", text.removeprefix("\ufeff")).lstrip()
    facts = read_card(text if text.startswith("---\n") else f"---\n{{}}\n---\n{text}")
    front, versions, kind = facts["front_matter"], facts["versions"], facts["model"]["type"] or ""
    tags = front.get("tags") or []
    tags = [str(tag) for tag in (tags if isinstance(tags, list) else [tags])]
    printed = {**facts["non_default_hyperparameters"], **facts["hyperparameters"]}
    try:
        version = Version(versions.get("Sentence Transformers", ""))
    except InvalidVersion:
        version = None
    ours = "Sentence Transformers" in versions or "multi_dataset_batch_sampler" in printed or "Sentence Trans" in kind
    library = "SetFit" if "SetFit" in versions else front.get("library_name") or "sentence-transformers"
    other = [tag for name, tag in LIBRARY["other_kinds"].items() if name in kind or tag in tags]
    old = " (version 2 had another form)" if "The model was trained with the parameters" in text else ""
    if other:
        raise UsageError(f"this is the card of a {other[0]} model: name the card of a SentenceTransformer")
    if not ours or library != "sentence-transformers" or (version and version.release < (3, 0)):
        raise UsageError(f"sentence-transformers 3.0 or later did not write this card{old}: name one that it wrote")
    parts, data = defaultdict(str, sections(text)), read_datasets(text)
    names = [tag.removeprefix("loss:") for tag in tags if tag.startswith("loss:")]
    names += [one["loss"] for one in data if one["loss"]] + re.findall(r'(?m)^ +"loss": "(\w+)"', text)
    names, labels = list(dict.fromkeys(names)), 0
    if names == ["SoftmaxLoss"] and len(data) == 1:
        counted = data[0]["statistics"].get("label", {}).get("percent", ())
        labels = int(find(r'^ +"num_labels": (\d+)', text) or len(counted))
    ran = dict(re.findall(r"(?m)^\| ([^|]+?) \| (.+) \|$", parts["### Effective Settings"]))
    return Card(facts, text, data, read_log(parts["### Training Logs"]), names, version, printed, ran, labels)


def entry_point(card: Card) -> dict:
    """Return whether the legacy ``fit`` or the trainer trained the model: ``fit``, ``trainer`` or ``unknown``."""
    printed, every, norm = card.printed, LIBRARY["log_every"], repr(card.printed.get("max_grad_norm"))
    if not printed:
        return unknown("the card has no training arguments: fit and trainer write them, old_fit does not")
    robin = printed.get("multi_dataset_batch_sampler", "round_robin")
    sampler = printed.get("batch_sampler", "batch_sampler")
    train, evaluation = (printed.get(f"per_device_{part}_batch_size") for part in ("train", "eval"))
    unequal = None not in (train, evaluation) and train != evaluation
    changed = {name for name, value in LIBRARY["defaults"].items() if printed.get(name) not in (value, None)}
    changed = sorted(changed.union(card.facts["non_default_hyperparameters"]).difference(LIBRARY["set_by_fit"]))
    names = sorted({name for data in card.data for name in data["columns"]})
    names = [name for name in names if not re.fullmatch(r"sentence_\d+|label", name)]
    steps = [f"{step:.0f}" for step in card.log.dropna(subset="Training Loss")["Step"] if step % every]
    against = {  # what fit cannot leave, whatever its arguments
        f"multi_dataset_batch_sampler is {robin}, and fit always sets round_robin": robin != "round_robin",
        f"{', '.join(changed)} differ from the defaults, and fit does not hand them on": changed,
        f"batch_sampler is {sampler}": sampler not in LIBRARY["fit_samplers"],
        f"batches of {train} to train and {evaluation} to evaluate, and fit sets both to one size": unequal,
        f"columns are called {', '.join(names)}, and fit calls them sentence_0, sentence_1, …": names,
        "there is an evaluation data set, and fit takes none": "\n### Evaluation Dataset" in card.text,
        f"the training loss is logged at step {''.join(steps[:1])}, and fit logs it every {every} steps": steps,
    }
    traces = {  # what it leaves by default
        "the columns are called sentence_0, sentence_1, …": card.data,  # other names are a sign against it
        "multi_dataset_batch_sampler is round_robin": "multi_dataset_batch_sampler" in printed,
        "max_grad_norm is the integer 1, fit's default (the trainer's is 1.0)": norm == "1",
    }
    if any(against.values()):
        return verdict("trainer", "certain", *(f"fit cannot leave this: {sign}" for sign in against if against[sign]))
    seen = [f"as fit leaves it: {sign}" for sign, there in traces.items() if there]
    lacking = [f"not as fit leaves it by default: {sign}" for sign, there in traces.items() if not there]
    if lacking:
        return unknown(*seen, *lacking, "each can be set by hand in the trainer")
    note = "nothing else differs from the defaults; by hand, all of this could be set in the trainer too"
    return verdict("fit", "likely", *seen, note)


def printed_settings(card: Card, entry: str) -> dict:
    """Return whether the printed learning rate, weight decay and warm-up trained the model."""
    printed = card.printed
    if not printed:
        return unknown("the card prints none")
    if card.ran:
        ran = defaultdict(str, card.ran)
        stated = {
            "learning_rate": find(r"learning rate ([\d.e-]+)", ran["optimizer"]),
            "weight_decay": find(r"^([\d.e-]+)", ran["weight decay"]),
            "warmup_steps": (find(r"up over ([\d,]+) steps", ran["schedule"]) or "0").replace(",", ""),
        }
        both = {name: (printed.get(name), as_python(value)) for name, value in stated.items()}
        other = [f"{name}: printed {there}, ran {here}" for name, (there, here) in both.items() if there != here]
        same = "the section Effective Settings has the same learning rate, weight decay and warm-up"
        return verdict("not used" if other else "used", "certain", *(other or [same]))
    said = defaultdict(lambda: "unknown", printed)
    value, *evidence = LIBRARY["settings"][entry]
    return verdict(value, "unknown" if value == "unknown" else "likely", *(text.format_map(said) for text in evidence))


def head_training(card: Card, entry: str) -> dict:
    """Return what became of the loss's own parameters: frozen, trained, trained with gradients added up, none or unknown."""
    if told := re.match(r"(frozen|trained|none)\b.*", card.ran.get("classifier head", "")):
        return verdict(told[1], "certain", f"the section Effective Settings says: {told[0]}")
    if strange := [name for name in card.losses if name not in losses.__all__]:
        return unknown(f"{', '.join(strange)} is none of the library's losses")
    if not card.losses:
        return unknown("the card names no loss")
    parameters, version = LIBRARY["own_parameters"], card.version
    own = [f"{name} has {parameters[name]} to train" for name in card.losses if name in parameters]
    own += ["the loss has a projection to train"] if re.search(r'(?m)^ +"projection_dim": \d', card.text) else []
    if not own:
        names = ", ".join(card.losses)
        return verdict("none", "certain", f"by their source, no parameters besides the model's: {names}")
    if not card.printed:
        return unknown(*own, "the card has no training arguments")
    if version is None or version.is_prerelease or version > Version(LIBRARY["newest"]):
        return unknown(*own, f"the version is {version or 'unknown'}; known are releases up to {LIBRARY['newest']}")
    known = (row for since, who, *row in LIBRARY["head"] if version >= Version(since) and who in (entry, "either"))
    value, why = next(known)
    if value == "unknown":
        return unknown(*own, f"in {version}: {why}")
    if value != "frozen" and (plateau(card) or 0) > BOUND:
        note = f"yet the loss stays at {plateau(card):.3f}, as with a head that was frozen by hand"
        return unknown(*own, f"in {version}, {why}", note)
    note = [] if entry == "fit" else ["unless a script froze them, or handed the trainer an optimizer"]
    return verdict(value, "likely", *own, f"in {version}, {why}", *note)


def plateau(card: Card) -> float | None:
    """Return the loss on which a log of three labels and embeddings of unit length settles, or None."""
    values = card.log["Training Loss"].dropna().to_numpy()
    if card.labels != 3 or len(values) < 10 or "): Normalize(" not in card.text:
        return None
    tail, half = max(2, len(values) // 5), len(values) // 2
    end = float(values[-tail:].mean())
    return end if abs(values[half : half + tail].mean() - end) < 0.03 and end < math.log(3) - 0.05 else None


def loss_findings(card: Card) -> list[tuple[str, str, str]]:
    """Return what the logged loss says of labels, warm-up and head: rows of about, grade and evidence."""
    log = card.log.dropna(subset="Training Loss")
    if log.empty:
        return [("loss", "unknown", "the card logs no training loss")]
    if card.labels < 2:
        return []
    values, step, guess = log["Training Loss"].tolist(), log["Step"].iloc[0], math.log(card.labels)
    fits = "clearly above it" if values[0] > guess + 0.05 else "not clearly above it, as it should be"
    text = f"{values[0]:.4f} up to step {step:.0f}; guessing costs ln {card.labels} = {guess:.4f}: {fits}"
    found = [("loss at the start", "certain", text)]
    warmup = card.printed.get("warmup_steps") or card.printed.get("warmup_ratio")
    if card.printed and not warmup and step >= 200 and len(values) > 2 and "): Normalize(" in card.text:
        first, second = guess - values[0], values[0] - values[1]
        text = f"the loss falls by {first:.3f}, then by {second:.3f}: like a warm-up, and the card prints none"
        found += [("warm-up", "likely", text)] if second > 2 * max(first, 0.01) else []
    if end := plateau(card):
        bound = f"the lowest found with a head that never moves is {BOUND} (0.55 if no pairs share a premise)"
        where = "above, as if it never moved" if end > BOUND else "below: it probably moved, or started larger"
        text = f"the loss settles at {end:.3f}; on unit-length embeddings {bound}: {where}"
        found.append(("plateau", "likely", text))
    return found


def step_findings(card: Card) -> list[tuple[str, str, str]]:
    """Return whether rows, batch size, epochs and steps agree: rows of about, grade and evidence."""
    printed, log = card.printed, card.log[card.log["Epoch"] > 0]
    sizes, batch = [data["rows"] for data in card.data], printed.get("per_device_train_batch_size")
    accumulated = printed.get("gradient_accumulation_steps", 1)
    if not sizes or log.empty or not all(type(n) is int and n > 0 for n in (*sizes, batch, accumulated)):
        return []
    found, (epoch, step) = [], log[["Epoch", "Step"]].loc[log["Epoch"].idxmax()]
    epochs = printed.get("num_train_epochs") if printed.get("max_steps", -1) in (-1, 0) else None
    if isinstance(epochs, (int, float)) and epoch > epochs + 1e-3:
        found.append(("epochs", "certain", f"the log goes to epoch {epoch:g}, and {epochs} were asked for"))
    if (sampler := printed.get("batch_sampler", "batch_sampler")) != "batch_sampler":
        return [*found, ("steps", "unknown", f"how many there are is up to batch_sampler {sampler}")]
    batch *= accumulated
    whole = [math.ceil(size / batch) for size in sizes]
    robin = printed.get("multi_dataset_batch_sampler") == "round_robin"
    expected, logged = len(whole) * min(whole) if robin else sum(whole), step / epoch
    slack = max(1 + len(sizes) + 6e-5 * logged / epoch, 0.002 * logged)  # the epoch is rounded to four digits
    shared = next((count for count in range(1, 129) if abs(logged - expected / count) <= slack), None)
    agree = {None: "they do not agree", 1: "they agree"}.get(shared, f"they agree if {shared} devices shared the work")
    rows = f"{' + '.join(f'{size:,}' for size in sizes)} rows in batches of {batch}"
    text = f"{rows}: {expected:,} steps per epoch, logged {logged:,.0f}: {agree}"
    return [*found, ("steps", "certain" if shared in (None, 1) else "likely", text)]


def missing(card: Card) -> list[tuple[str, str, str]]:
    """Return what the card does not say: a row of about, grade and evidence, or none."""
    front, model = card.facts["front_matter"], card.facts["model"]
    there = {
        "evaluation": front.get("model-index") or "\n## Evaluation\n" in card.text,
        "name of the training data": front.get("datasets") or model["training_datasets"],
        "licence": front.get("license") or model["license"],
        "language": front.get("language") or model["language"],
        "base model": front.get("base_model") or card.facts["base_model"],
        "training arguments": card.printed,
        "training log": not card.log.empty,
        "version of the library": card.version,
    }
    found = [name for name, said in there.items() if not said]
    return [("missing", "certain", f"the card does not say: {', '.join(found)}")] if found else []
