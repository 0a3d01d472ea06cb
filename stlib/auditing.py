"""The audit of a model card: what trained the model, as far as its card tells, for models of sentence-transformers 3.0 on.

What each version does was read from its source, 3.0.0 to 6.2.0: ``fit_mixin.py``, ``trainer.py``, ``model_card.py``, losses.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from huggingface_hub import hf_hub_download
from packaging.version import InvalidVersion, Version
from sentence_transformers.sentence_transformer import losses
from yaml import YAMLError

from stlib.cards import as_python, find, read_card, read_datasets, sections
from stlib.errors import UsageError

CERTAIN, LIKELY, UNKNOWN = "certain", "likely", "unknown"
# Losses with parameters besides the model's. MSELoss and EmbedDistillLoss have some if they print a projection.
OWN_PARAMETERS = {
    "SoftmaxLoss": "a classifier", "DenoisingAutoEncoderLoss": "a decoder", "ContrastiveTensionLoss": "a second encoder",
    "ContrastiveTensionLossInBatchNegatives": "a second encoder and a scale",
}  # fmt: skip
# The arguments that ``fit`` hands on; all others keep their defaults, and its users cannot change them.
SET_BY_FIT = {
    "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps", "eval_strategy",
    "evaluation_strategy", "max_grad_norm", "fp16", "disable_tqdm", "batch_sampler", "multi_dataset_batch_sampler",
}  # fmt: skip
DEFAULTS = {"learning_rate": 5e-5, "weight_decay": 0, "warmup_steps": 0, "warmup_ratio": 0}
FIT_SAMPLERS = ("batch_sampler", "no_duplicates", "group_by_label")
LOG_EVERY = 500  # steps: the default, which ``fit`` does not change
NEWEST = Version("6.2.0")  # the last release whose source was read
BOUND = 0.74  # nats (notebook 07): what a frozen head allows at best if three labels share a premise of unit length
OTHER_KINDS = {"Cross Encoder": "cross-encoder", "Sparse Encoder": "sparse-encoder", "Multi-Vector": "multi-vector"}


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

    @property
    def labels(self) -> int | None:
        """How many labels a SoftmaxLoss on one data set tells apart, as printed or as counted in the sample; else None."""
        if self.losses != ["SoftmaxLoss"] or len(self.data) != 1:
            return None
        counted = self.data[0]["statistics"].get("label", {}).get("percent", ())
        return int(find(r'^ +"num_labels": (\d+)', self.text) or len(counted))


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
        "findings": [{"about": about, "grade": grade, "evidence": [text]} for about, grade, text in findings],
    }


def verdict(value: str, grade: str, *evidence: str) -> dict:
    """Return a value with its grade and evidence."""
    return {"value": value, "grade": grade, "evidence": list(evidence)}


def describe(found: dict) -> str:
    """Return an audit as text: a line per verdict, and its evidence below it."""
    named = [{"about": name.replace("_", " "), **found[name]} for name in ("entry_point", "head", "printed_settings")]
    lines = []
    for one in [*named, *found["findings"]]:
        value = f": {one['value']}" if "value" in one else ""
        lines.append(f"{one['about']}{value} ({one['grade']})")
        lines += [f"    {sentence}" for sentence in one["evidence"]]
    return "\n".join(lines)


# ---- reading ---------------------------------------------------------------------------------------------------------


def load_text(name: str | Path) -> str:
    """Return the card in a file, in a folder's README.md, or of a model on the hub. Raises UsageError if there is none."""
    path = Path(name) / "README.md" if Path(name).is_dir() else Path(name)
    if not path.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) and path.suffix not in (".md", ".txt"):
        try:
            path = Path(hf_hub_download(str(name), "README.md"))
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{name} is no file, and the hub gave no card of it ({reason}): name a file") from error
    if not path.is_file():
        raise UsageError(f"there is no card {path}: name a file, or a folder with README.md")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: name a model card") from error


def understand(text: str) -> Card:
    """Return what the audit needs of a card. Raises UsageError if it is another kind of text, model or version."""
    text = re.sub(r"\r\n?", "\n", text.removeprefix("\ufeff")).lstrip()
    try:
        facts = read_card(text if text.startswith("---\n") else f"---\n{{}}\n---\n{text}")
    except (ValueError, TypeError, SyntaxError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the card cannot be read ({reason}): correct it") from error
    front, versions, kind = facts["front_matter"], facts["versions"], facts["model"]["type"] or ""
    tags = [str(tag) for tag in front.get("tags") or []]
    for name, tag in OTHER_KINDS.items():
        if name in kind or tag in tags:
            raise UsageError(f"this is the card of a {tag} model: name the card of a SentenceTransformer")
    printed = {**facts["non_default_hyperparameters"], **facts["hyperparameters"]}
    library = front.get("library_name") or "sentence-transformers"
    ours = "Sentence Transformers" in versions or "multi_dataset_batch_sampler" in printed or "Sentence Trans" in kind
    if not ours or "SetFit" in versions or library != "sentence-transformers":
        old = " (version 2 had another form)" if "The model was trained with the parameters" in text else ""
        raise UsageError(f"sentence-transformers 3.0 or later did not write this card{old}: name one that it wrote")
    try:
        version = Version(versions.get("Sentence Transformers", ""))
    except InvalidVersion:
        version = None
    if version and version.release < (3, 0):
        raise UsageError(f"sentence-transformers {version} wrote this card: name one of version 3.0 or later")
    parts, data = sections(text), read_datasets(text)
    names = [tag.removeprefix("loss:") for tag in tags if tag.startswith("loss:")]
    names += [one["loss"] for one in data if one["loss"]] + re.findall(r'(?m)^ +"loss": "(\w+)"', text)
    ran = dict(re.findall(r"(?m)^\| ([^|]+?) \| (.+) \|$", parts.get("### Effective Settings", "")))
    log = read_log(parts.get("### Training Logs", ""))
    return Card(facts, text, data, log, list(dict.fromkeys(names)), version, printed, ran)


def read_log(text: str) -> pd.DataFrame:
    """Return the training log: ``Epoch``, ``Step``, ``Training Loss`` and the other printed columns, NaN where there is none."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip(" *") for cell in line] for line in lines] if len(lines) > 1 else [[], []]
    table = pd.DataFrame([dict(zip(header, row, strict=False)) for row in rows])
    table = table.reindex(columns=list(dict.fromkeys(["Epoch", "Step", "Training Loss", *table.columns])))
    return table.apply(pd.to_numeric, errors="coerce").dropna(subset=["Epoch", "Step"])


# ---- entry point and printed settings --------------------------------------------------------------------------------


def entry_point(card: Card) -> dict:
    """Return whether the legacy ``fit`` or the trainer trained the model: ``fit``, ``trainer`` or ``unknown``."""
    if not card.printed:
        note = "the card has no training arguments: fit and trainer write them, old_fit does not"
        return verdict("unknown", UNKNOWN, note)
    if against := signs_against_fit(card):
        return verdict("trainer", CERTAIN, *(f"fit cannot leave this: {sign}" for sign in against))
    norm = repr(card.printed.get("max_grad_norm"))
    traces = {
        "the columns are called sentence_0, sentence_1, …": bool(card.data),  # other names are a sign against it
        "multi_dataset_batch_sampler is round_robin": "multi_dataset_batch_sampler" in card.printed,
        "max_grad_norm is the integer 1, fit's default (the trainer's is 1.0)": norm == "1",
    }
    seen = [f"as fit leaves it: {sign}" for sign, there in traces.items() if there]
    if len(seen) == len(traces):
        note = "nothing else differs from the defaults; by hand, all of this could be set in the trainer too"
        return verdict("fit", LIKELY, *seen, note)
    lacking = [f"not as fit leaves it by default: {sign}" for sign, there in traces.items() if not there]
    return verdict("unknown", UNKNOWN, *seen, *lacking, "each can be set by hand in the trainer")


def signs_against_fit(card: Card) -> list[str]:
    """Return what the card shows that ``fit`` cannot leave, whatever its arguments."""
    printed, signs = card.printed, []
    if (sampler := printed.get("multi_dataset_batch_sampler", "round_robin")) != "round_robin":
        signs.append(f"multi_dataset_batch_sampler is {sampler}, and fit always sets round_robin")
    changed = set(card.facts["non_default_hyperparameters"])
    changed |= {name for name, value in DEFAULTS.items() if printed.get(name) not in (value, None)}
    if others := sorted(changed - SET_BY_FIT):
        signs.append(f"{', '.join(others)} differ from the defaults, and fit does not hand them on")
    if (sampler := printed.get("batch_sampler", "batch_sampler")) not in FIT_SAMPLERS:
        signs.append(f"batch_sampler is {sampler}")
    train, evaluation = (printed.get(f"per_device_{part}_batch_size") for part in ("train", "eval"))
    if None not in (train, evaluation) and train != evaluation:
        signs.append(f"batches of {train} to train and {evaluation} to evaluate, and fit sets both to one size")
    names = {name for data in card.data for name in data["columns"]}
    if wrong := sorted(name for name in names if not re.fullmatch(r"sentence_\d+|label", name)):
        signs.append(f"columns are called {', '.join(wrong)}, and fit calls them sentence_0, sentence_1, …")
    if "\n### Evaluation Dataset" in card.text:
        signs.append("there is an evaluation data set, and fit takes none")
    steps = card.log.dropna(subset="Training Loss")["Step"]
    if len(off := steps[steps % LOG_EVERY != 0]):
        signs.append(f"the training loss is logged at step {off.iloc[0]:.0f}, and fit logs it every {LOG_EVERY} steps")
    return signs


def printed_settings(card: Card, entry: str) -> dict:
    """Return whether the printed learning rate, weight decay and warm-up trained the model."""
    printed = card.printed
    if not printed:
        return verdict("unknown", UNKNOWN, "the card prints none")
    if card.ran:
        stated = {
            "learning_rate": find(r"learning rate ([\d.e-]+)", card.ran.get("optimizer", "")),
            "weight_decay": find(r"^([\d.e-]+)", card.ran.get("weight decay", "")),
            "warmup_steps": (find(r"up over ([\d,]+) steps", card.ran.get("schedule", "")) or "0").replace(",", ""),
        }
        both = {name: (printed.get(name), as_python(value)) for name, value in stated.items()}
        other = [f"{name}: printed {there}, ran {here}" for name, (there, here) in both.items() if there != here]
        same = "the section Effective Settings has the same learning rate, weight decay and warm-up"
        return verdict("not used" if other else "used", CERTAIN, *(other or [same]))
    if entry == "trainer":
        note = "the trainer uses its arguments, unless a script hands it an optimizer, which no card shows"
        return verdict("used", LIKELY, note)
    if entry == "unknown":
        return verdict("unknown", UNKNOWN, "used if the trainer ran, not used if fit ran")
    return verdict(
        "not used", LIKELY,
        "the printed learning rate, weight decay and warm-up are defaults that fit does not train with: it has an optimizer and a "
        "schedule that no card shows (unless told otherwise AdamW, 2e-5, decay 0.01, warm-up over 10,000 steps, then linear)",
        "what ran as printed, for fit hands it on: batches of {per_device_train_batch_size}, {num_train_epochs} epochs, clipping to "
        "{max_grad_norm}".format_map(defaultdict(lambda: "unknown", printed)),
    )  # fmt: skip


# ---- the head --------------------------------------------------------------------------------------------------------


def head_training(card: Card, entry: str) -> dict:
    """Return what became of the loss's own parameters: frozen, trained, trained with gradients added up, none or unknown."""
    if told := re.match(r"(frozen|trained|none)\b.*", card.ran.get("classifier head", "")):
        return verdict(told[1], CERTAIN, f"the section Effective Settings says: {told[0]}")
    if strange := [name for name in card.losses if name not in losses.__all__]:
        return verdict("unknown", UNKNOWN, f"{', '.join(strange)} is none of the library's losses")
    if not card.losses:
        return verdict("unknown", UNKNOWN, "the card names no loss")
    own = [f"{name} has {OWN_PARAMETERS[name]} to train" for name in card.losses if name in OWN_PARAMETERS]
    own += ["the loss has a projection to train"] if re.search(r'(?m)^ +"projection_dim": \d', card.text) else []
    if not own:
        return verdict("none", CERTAIN, f"by their source, no parameters besides the model's: {', '.join(card.losses)}")
    version = card.version
    if not card.printed or version is None or version.is_prerelease or version > NEWEST:
        which = "unknown" if version is None else f"{version}; known are releases up to {NEWEST}"
        why = f"the version is {which}" if card.printed else "the card has no training arguments"
        return verdict("unknown", UNKNOWN, *own, why)
    if version >= Version("6.2"):
        value, why = "trained", "fit and the trainer give these parameters to the optimizer, and clear their gradients"
    elif version < Version("3.1"):
        value, why = "frozen", "neither fit nor the trainer gives these parameters to the optimizer"
    elif entry == "fit":
        value, why = "frozen", "fit gives the optimizer the parameters of the model only (self.named_parameters())"
    elif entry == "trainer":
        value = "trained, gradients added up"
        why = "the trainer gives them to the optimizer, but clears the gradients of the model only (model.zero_grad())"
    else:
        return verdict("unknown", UNKNOWN, *own, f"in {version}: frozen if fit ran, trained if the trainer ran")
    if value != "frozen" and (plateau(card) or 0) > BOUND:
        note = f"yet the loss stays at {plateau(card):.3f}, as with a head that was frozen by hand"
        return verdict("unknown", UNKNOWN, *own, f"in {version}, {why}", note)
    note = [] if entry == "fit" else ["unless a script froze them, or handed the trainer an optimizer"]
    return verdict(value, LIKELY, *own, f"in {version}, {why}", *note)


# ---- findings --------------------------------------------------------------------------------------------------------


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
        return [("loss", UNKNOWN, "the card logs no training loss")]
    if not card.labels or card.labels < 2:
        return []
    values, step, guess = log["Training Loss"].tolist(), log["Step"].iloc[0], math.log(card.labels)
    fits = "above it" if values[0] > guess + 0.05 else "not above it, as it should be"
    text = f"{values[0]:.4f} up to step {step:.0f}; guessing costs ln {card.labels} = {guess:.4f}: {fits}"
    found = [("loss at the start", CERTAIN, text)]
    warmup = card.printed.get("warmup_steps") or card.printed.get("warmup_ratio")
    if card.printed and not warmup and step >= 200 and len(values) > 2 and "): Normalize(" in card.text:
        first, second = guess - values[0], values[0] - values[1]
        text = f"the loss falls by {first:.3f}, then by {second:.3f}: like a warm-up, and the card prints none"
        found += [("warm-up", LIKELY, text)] if second > 2 * max(first, 0.01) else []
    if end := plateau(card):
        bound = f"a head that never moves allows {BOUND} at best (0.55 if no pairs share a premise)"
        where = "above that, as if the head never moved" if end > BOUND else "below that: it moved, or started larger"
        found.append(("plateau", LIKELY, f"the loss settles at {end:.3f}; on unit-length embeddings {bound}: {where}"))
    return found


def step_findings(card: Card) -> list[tuple[str, str, str]]:
    """Return whether rows, batch size, epochs and steps agree: rows of about, grade and evidence."""
    printed, log = card.printed, card.log[card.log["Epoch"] > 0]
    sizes, batch = [data["rows"] for data in card.data], printed.get("per_device_train_batch_size")
    if not sizes or None in sizes or not isinstance(batch, int) or log.empty:
        return []
    found, (epoch, step) = [], log[["Epoch", "Step"]].loc[log["Epoch"].idxmax()]
    epochs = printed.get("num_train_epochs") if printed.get("max_steps", -1) in (-1, 0) else None
    if isinstance(epochs, (int, float)) and epoch > epochs + 1e-3:
        found.append(("epochs", CERTAIN, f"the log goes to epoch {epoch:g}, and {epochs} were asked for"))
    if printed.get("batch_sampler", "batch_sampler") != "batch_sampler":
        return [*found, ("steps", UNKNOWN, f"how many there are is up to batch_sampler {printed['batch_sampler']}")]
    batch *= printed.get("gradient_accumulation_steps") or 1
    whole = [math.ceil(size / batch) for size in sizes]
    robin = printed.get("multi_dataset_batch_sampler") == "round_robin"
    expected, logged = len(whole) * min(whole) if robin else sum(whole), step / epoch
    slack = max(1 + len(sizes) + 6e-5 * logged / epoch, 0.002 * logged)  # the epoch is rounded to four digits
    shared = next((count for count in range(1, 129) if abs(logged - expected / count) <= slack), None)
    what = f"{' + '.join(f'{size:,}' for size in sizes)} rows in batches of {batch}: {expected:,} steps per epoch, logged {logged:,.0f}"
    agree = {None: "they do not agree", 1: "they agree"}.get(shared, f"they agree if {shared} devices shared the work")
    return [*found, ("steps", LIKELY if shared and shared > 1 else CERTAIN, f"{what}: {agree}")]


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
    }  # fmt: skip
    found = [name for name, said in there.items() if not said]
    return [("missing", CERTAIN, f"the card does not say: {', '.join(found)}")] if found else []
