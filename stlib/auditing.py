"""The audit of a model card: what trained the model, as far as the card can prove it, for any model of sentence-transformers 3.0 on.

What each version does was read from its source: ``fit_mixin.py``, ``trainer.py``, ``model_card.py`` and the losses of 3.0.0 to 6.2.0.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from huggingface_hub import hf_hub_download
from packaging.version import InvalidVersion, Version
from sentence_transformers.sentence_transformer import losses
from yaml import YAMLError

from stlib.cards import as_python, find, read_card, sections
from stlib.errors import UsageError

CERTAIN, LIKELY, UNKNOWN = "certain", "likely", "unknown"
# The losses that bring parameters besides the model's. MSELoss and EmbedDistillLoss do so if they print a projection.
OWN_PARAMETERS = {
    "SoftmaxLoss": "a classifier",
    "DenoisingAutoEncoderLoss": "a decoder",
    "ContrastiveTensionLoss": "a second encoder",
    "ContrastiveTensionLossInBatchNegatives": "a second encoder and a scale",
}
PROJECTING = ("MSELoss", "EmbedDistillLoss")
# The arguments that ``fit`` hands on; all others it leaves at their defaults, and no user of it can change them.
SET_BY_FIT = {
    "per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs", "max_steps", "eval_strategy",
    "evaluation_strategy", "max_grad_norm", "fp16", "disable_tqdm", "batch_sampler", "multi_dataset_batch_sampler",
}  # fmt: skip
DEFAULTS = {"learning_rate": 5e-5, "weight_decay": 0, "warmup_steps": 0, "warmup_ratio": 0, "lr_scheduler_type": "linear"}
FIT_SAMPLERS = ("batch_sampler", "no_duplicates", "group_by_label")
LOG_EVERY = 500  # steps: the default, which ``fit`` does not change
NEWEST = Version("6.2.0")  # the last release whose source was read
BOUND = 0.74  # nats, notebook 07: what a frozen head allows at best, if three labels share a premise of unit length
OTHER_KINDS = {"Cross Encoder": "cross-encoder", "Sparse Encoder": "sparse-encoder", "Multi-Vector": "multi-vector"}


@dataclass(frozen=True)
class Card:
    """What the audit reads of a card; what the card lacks is None or empty."""

    facts: dict  # of ``read_card``
    sections: dict[str, str]
    data: list[dict]  # rows, columns and loss of each training data set
    log: pd.DataFrame  # a row per line of the training log, with the columns that it has
    losses: list[str]
    loss_settings: str  # as printed
    version: Version | None  # of sentence-transformers; None also for one that was no release

    @property
    def printed(self) -> dict:
        return {**self.facts["non_default_hyperparameters"], **self.facts["hyperparameters"]}


def audit(text: str) -> dict:
    """Return what the card ``text`` proves: ``entry_point``, ``head``, ``printed_settings`` and a list of ``findings``.

    The first three have a ``value``, a ``grade`` (``certain``: the card or the version's source leaves nothing else,
    ``likely``: several signs agree, ``unknown``) and ``evidence``, a list of sentences; so have findings, with ``about``
    for ``value``. Raises UsageError if the text is no card of a SentenceTransformer by version 3.0 or later.
    """
    card = understand(text)
    entry = entry_point(card)
    head = head_training(card, entry)
    return {
        "entry_point": entry,
        "head": head,
        "printed_settings": printed_settings(card, entry),
        "findings": [*log_findings(card, head), *step_findings(card), *missing(card)],
    }


def verdict(value: str, grade: str, *evidence: str, key: str = "value") -> dict:
    """Return a value with its grade and evidence."""
    return {key: value, "grade": grade, "evidence": [sentence for sentence in evidence if sentence]}


def load_text(name: str | Path) -> str:
    """Return the card in a file, in the README.md of a folder, or of a model on the hub. Raises UsageError if there is none."""
    path = Path(name)
    path = path / "README.md" if path.is_dir() else path
    if not path.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) and path.suffix.lower() not in (".md", ".txt"):
        try:
            path = Path(hf_hub_download(str(name), "README.md"))
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"there is no file or folder {name}, and the hub gave no card of that name ({reason}): name a file"
            ) from error
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"there is no card {path}: name a file, or a folder with README.md") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: name a model card") from error


def understand(text: str) -> Card:
    """Return what the audit needs of a card. Raises UsageError if it is another kind of text, model or version."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").lstrip()
    try:
        facts = read_card(text if text.startswith("---\n") else f"---\n{{}}\n---\n{text}")
    except (ValueError, TypeError, YAMLError) as error:
        raise UsageError(f"this card's front matter cannot be read ({' '.join(str(error).split())}): correct it") from error
    front, parts, kind = facts["front_matter"], sections(text), facts["model"]["type"] or ""
    tags = front.get("tags") or []
    library = front.get("library_name") or "sentence-transformers"
    for name, tag in OTHER_KINDS.items():
        if name in kind or tag in tags:
            raise UsageError(f"this is the card of a {name.lower()} model: the audit reads cards of SentenceTransformer models")
    printed, versions = facts["hyperparameters"], facts["versions"]
    ours = "Sentence Transformers" in versions or "multi_dataset_batch_sampler" in printed
    if library != "sentence-transformers" or "SetFit" in versions or not (ours or kind == "Sentence Transformer"):
        old = "The model was trained with the parameters" in text or "{MODEL_NAME}" in text
        why = ": version 2 or earlier wrote it, which had another form" if old else ""
        raise UsageError(f"this is no card that sentence-transformers 3.0 or later wrote{why}: name another file")
    try:
        version = Version(versions.get("Sentence Transformers", ""))
    except InvalidVersion:
        version = None
    if version is not None and version.release < (3, 0):
        raise UsageError(f"sentence-transformers {version} wrote this card: the audit reads those of version 3.0 and later")
    data_text = find_block(text, "### Training Dataset")
    names = [str(tag)[5:] for tag in tags if str(tag).startswith("loss:")]
    names += re.findall(r"(?m)^\* Loss: .*?<code>(?:[\w.]+\.)?(\w+)</code>", data_text) + re.findall(r'"loss": "(\w+)"', data_text)
    return Card(
        facts,
        parts,
        [
            {
                "rows": int(size.replace(",", "")) if (size := find(r"^\* Size: ([\d,]+)", part)) else None,
                "columns": re.findall("<code>(.*?)</code>", find(r"^\* Columns: (.+)$", part) or ""),
                "name": find(r"^\* Dataset: \[?([^\]\n]+)", part),
            }
            for part in re.split(r"(?m)^(?:#### .*|<details><summary>.*)$", data_text)[1:]
            if "* Columns:" in part
        ],
        read_log(parts.get("### Training Logs", "")),
        list(dict.fromkeys(names)),
        data_text,
        version,
    )


def find_block(text: str, heading: str) -> str:
    """Return the text from a heading (and what follows on its line) to the next one of its level or above."""
    return find(rf"^{heading}s?\n([\s\S]*?)(?=^###? |\Z)", text) or ""


def read_log(text: str) -> pd.DataFrame:
    """Return the training log: ``Epoch``, ``Step`` and the printed columns of losses and scores, NaN where there is none."""
    rows = [[cell.strip(" *") for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    if len(rows) < 3 or rows[0][:2] != ["Epoch", "Step"]:
        return pd.DataFrame(columns=["Epoch", "Step", "Training Loss"])
    table = pd.DataFrame([row for row in rows[2:] if len(row) == len(rows[0])], columns=rows[0])
    return table.apply(pd.to_numeric, errors="coerce").dropna(subset=["Epoch", "Step"])


# ---- entry point and printed settings --------------------------------------------------------------------------------


def entry_point(card: Card) -> dict:
    """Return whether the legacy ``fit`` or the trainer trained the model: ``fit``, ``trainer`` or ``unknown``."""
    printed = card.printed
    if not printed:
        return verdict("unknown", UNKNOWN, "the card has no training hyperparameters: no trainer wrote them (old_fit leaves none)")
    against = signs_against_fit(card)
    if against:
        return verdict("trainer", CERTAIN, *(f"fit cannot leave this: {sign}" for sign in against))
    columns = [set(data["columns"]) - {"label"} for data in card.data]
    traces = {
        "the columns are called sentence_0, sentence_1, …": bool(columns) and all(columns),
        "multi_dataset_batch_sampler is round_robin": printed.get("multi_dataset_batch_sampler") == "round_robin",
        "max_grad_norm is the integer 1, the default of fit; the trainer's is 1.0": repr(printed.get("max_grad_norm")) == "1",
        "the data set has no name": bool(card.data) and not any(data["name"] for data in card.data),
    }
    found, lacking = ([sign for sign, there in traces.items() if there is wanted] for wanted in (True, False))
    *main, _ = traces.values()
    if all(main):
        also = "every other argument has its default, as fit leaves them; by hand, all of this could be set in the trainer too"
        return verdict("fit", LIKELY, *(f"as fit leaves it: {sign}" for sign in found), also)
    return verdict(
        "unknown",
        UNKNOWN,
        *(f"as fit leaves it, but it can be set in the trainer too: {sign}" for sign in found),
        *(f"not there: {sign}" for sign in lacking),
    )


def signs_against_fit(card: Card) -> list[str]:
    """Return what the card shows that a run of ``fit`` cannot leave, whatever its arguments."""
    printed, changed, signs = card.printed, set(card.facts["non_default_hyperparameters"]), []
    if (sampler := printed.get("multi_dataset_batch_sampler", "round_robin")) != "round_robin":
        signs.append(f"multi_dataset_batch_sampler is {sampler}, and fit always sets round_robin")
    changed |= {name for name, value in DEFAULTS.items() if printed.get(name) not in (value, None)}
    if others := sorted(changed - SET_BY_FIT):
        signs.append(f"{', '.join(others)}: changed from the defaults, and fit has no way to hand them on")
    if (sampler := printed.get("batch_sampler", "batch_sampler")) not in FIT_SAMPLERS:
        signs.append(f"batch_sampler is {sampler}")
    train, evaluation = (printed.get(f"per_device_{which}_batch_size") for which in ("train", "eval"))
    if None not in (train, evaluation) and train != evaluation:
        signs.append(f"batches of {train} for training and {evaluation} for evaluation, and fit sets both to one size")
    wrong = {name for data in card.data for name in data["columns"] if not re.fullmatch(r"sentence_\d+|label", name)}
    if wrong:
        signs.append(f"the columns are called {', '.join(sorted(wrong))}, and fit calls them sentence_0, sentence_1, …")
    if "### Evaluation Dataset" in card.sections or "### Evaluation Datasets" in card.sections:
        signs.append("there is an evaluation data set, and fit takes none")
    steps = training_loss(card)["Step"]
    if len(off := steps[steps % LOG_EVERY != 0]):
        signs.append(f"the training loss was logged at step {int(off.iloc[0]):,}, and fit logs it every {LOG_EVERY} steps only")
    return signs


def effective(card: Card) -> dict[str, str]:
    """Return the settings of the section *Effective Settings* by name; none if the card has no such section."""
    return dict(re.findall(r"(?m)^\| ([^|]+?) \| (.+) \|$", card.sections.get("### Effective Settings", "")))


def printed_settings(card: Card, entry: dict) -> dict:
    """Return whether the printed learning rate, weight decay and warm-up trained the model."""
    printed, ran = card.printed, effective(card)
    if not printed:
        return verdict("unknown", UNKNOWN, "the card prints no settings")
    if ran:
        pairs = {
            "learning_rate": find(r"learning rate ([\d.e-]+)", ran.get("optimizer", "")),
            "weight_decay": find(r"^([\d.e-]+)", ran.get("weight decay", "")),
            "warmup_steps": (find(r"up over ([\d,]+) steps", ran.get("schedule", "")) or "0").replace(",", ""),
        }
        other = [
            f"{name}: printed {printed.get(name)}, ran {value}"
            for name, value in pairs.items()
            if value is not None and printed.get(name) != as_python(value)
        ]
        same = "its section Effective Settings gives the same learning rate, weight decay and warm-up"
        return verdict("not used" if other else "used", CERTAIN, *(other or [same]))
    if entry["value"] == "fit":
        size, epochs = printed.get("per_device_train_batch_size"), printed.get("num_train_epochs")
        return verdict(
            "not used",
            LIKELY,
            "fit builds an optimizer and a schedule from arguments that no card shows, and prints those of an unused default: "
            f"learning_rate {printed.get('learning_rate')}, weight_decay {printed.get('weight_decay')}, warmup_steps "
            f"{printed.get('warmup_steps')}",
            "by its own defaults it trains with AdamW, rate 2e-5, weight decay 0.01, warm-up over 10,000 steps, linear decay",
            f"what ran as printed: batches of {size}, {epochs} epochs, clipping to {printed.get('max_grad_norm')}, the seed",
        )
    if entry["value"] == "trainer":
        return verdict(
            "used", LIKELY, "the trainer trains with its arguments, unless a script hands it an optimizer, which no card shows"
        )
    return verdict("unknown", UNKNOWN, "they trained the model if the trainer ran, and did not if fit ran")


# ---- the head --------------------------------------------------------------------------------------------------------


def head_training(card: Card, entry: dict) -> dict:
    """Return what became of the loss's own parameters: ``frozen``, ``trained``, ``trained, gradients added up``, ``none``, ``unknown``."""
    own = [f"{name} brings {OWN_PARAMETERS[name]}" for name in card.losses if name in OWN_PARAMETERS]
    projects = re.search(r'"projection_dim": \d', card.loss_settings) and any(name in PROJECTING for name in card.losses)
    own += ["the loss prints a projection, which is trained beside the model"] if projects else []
    strange = [name for name in card.losses if name not in losses.__all__]
    said = effective(card).get("classifier head")
    if said:
        return verdict(said.split()[0].rstrip(":,"), CERTAIN, f"its section Effective Settings says: {said}")
    if not card.losses:
        return verdict("unknown", UNKNOWN, "the card names no loss")
    if strange:
        return verdict("unknown", UNKNOWN, f"{', '.join(strange)} is none of the library's losses")
    if not own:
        known = "has no parameters" if len(card.losses) == 1 else "have no parameters"
        return verdict("none", CERTAIN, f"{', '.join(card.losses)} {known} besides the model's, by the library's source")
    version, by = card.version, entry["value"]
    if version is None or version.is_prerelease or version > NEWEST:
        return verdict("unknown", UNKNOWN, *own, f"the version ({version}) is no release up to {NEWEST}, whose source was read")
    if not card.printed:
        return verdict("unknown", UNKNOWN, *own, "the card does not show whether fit, old_fit or the trainer ran")
    if version >= Version("6.2"):
        value, why = "trained", "both fit and the trainer give the loss's parameters to the optimizer, and clear their gradients"
    elif version < Version("3.1"):
        value, why = "frozen", "neither fit nor the trainer gives the loss's parameters to the optimizer"
    elif by == "fit":
        value, why = "frozen", "fit gives the optimizer self.named_parameters(), the model's only"
    elif by == "trainer":
        value = "trained, gradients added up"
        why = "the trainer gives them to the optimizer, but clears the model's gradients only (model.zero_grad())"
    else:
        value, why = "unknown", "frozen if fit ran; trained with gradients that add up if the trainer ran"
    if value.startswith("trained") and (flat := plateau(card)) and flat[0] > BOUND:
        return verdict(
            "unknown", UNKNOWN, *own, f"in {version}, {why}",
            f"but the loss stays at {flat[0]:.3f}, as with a head that was frozen by hand",
        )  # fmt: skip
    hand = "a script may have frozen it, or brought an optimizer" if by != "fit" else ""
    return verdict(value, LIKELY if value != "unknown" else UNKNOWN, *own, f"in {version}, {why}", hand)


# ---- findings --------------------------------------------------------------------------------------------------------


def training_loss(card: Card) -> pd.DataFrame:
    """Return the rows of the log that have a training loss: ``Epoch``, ``Step`` and ``Training Loss``."""
    columns = ["Epoch", "Step", "Training Loss"]
    return card.log[columns].dropna() if "Training Loss" in card.log else pd.DataFrame(columns=columns, dtype=float)


def label_count(card: Card) -> int | None:
    """Return how many labels a SoftmaxLoss on one data set tells apart, as printed or counted in the sample; else None."""
    if card.losses != ["SoftmaxLoss"] or len(card.data) != 1:
        return None
    printed = find(r'"num_labels": (\d+)', card.loss_settings)
    labels = (card.facts["dataset"] or {}).get("statistics", {}).get("label", {}).get("percent", {})
    return int(printed) if printed else len(labels) or None


def plateau(card: Card) -> tuple[float, float] | None:
    """Return the loss on which a log of three labels and unit embeddings settles, and the change over its last half; else None."""
    log = training_loss(card)
    if label_count(card) != 3 or len(log) < 10 or "Normalize" not in (card.facts["model"]["architecture"] or ""):
        return None
    losses_ = log["Training Loss"].to_numpy()
    half, tail = len(losses_) // 2, max(2, len(losses_) // 5)
    end, change = losses_[-tail:].mean(), losses_[half : half + tail].mean() - losses_[-tail:].mean()
    return (float(end), float(change)) if abs(change) < 0.03 and end < math.log(3) - 0.05 else None


def log_findings(card: Card, head: dict) -> list[dict]:
    """Return what the logged loss says of labels, warm-up and head."""
    log, labels = training_loss(card), label_count(card)
    if not len(log):
        return [verdict("loss", UNKNOWN, "the card logs no training loss", key="about")]
    first, step = float(log["Training Loss"].iloc[0]), int(log["Step"].iloc[0])
    if labels is None or labels < 2:
        return []
    guess = math.log(labels)
    found = [
        verdict(
            "loss at the start", CERTAIN,
            f"{first:.4f} over the first {step:,} steps; guessing among {labels} labels costs ln {labels} = {guess:.4f}, so it "
            + ("starts above that" if first > guess + 0.05 else "fits"), key="about",
        )
    ]  # fmt: skip
    if len(log) > 2 and step >= 200 and "Normalize" in (card.facts["model"]["architecture"] or ""):
        drop, next_drop = guess - first, first - float(log["Training Loss"].iloc[1])
        warm = card.printed.get("warmup_steps") or card.printed.get("warmup_ratio")
        if not warm and card.printed and next_drop > 2 * max(drop, 0):
            late = f"it falls by {next_drop:.3f} in the second row, by {drop:.3f} in the first"
            found.append(verdict("warm-up", LIKELY, f"{late}: like a warm-up, and the card prints none", key="about"))
    if flat := plateau(card):
        above = flat[0] > BOUND
        text = (
            f"the loss settles at {flat[0]:.3f} (change over the last half: {flat[1]:.3f}); a head that never moves, with its usual "
            f"initial weights on embeddings of unit length, allows {BOUND} at best (0.55 if each pair had embeddings for itself)"
        )
        fits = "above it, as a frozen head would be" if above else "below it, so the head moved, or started larger"
        known = " (the head: frozen)" if above and head["value"] == "frozen" else ""
        found.append(verdict("plateau", LIKELY, f"{text}: {fits}{known}", key="about"))
    return found


def step_findings(card: Card) -> list[dict]:
    """Return whether rows, batch size, epochs and steps agree."""
    printed, log = card.printed, card.log[card.log["Epoch"] > 0]
    sizes, batch = [data["rows"] for data in card.data], printed.get("per_device_train_batch_size")
    if not sizes or None in sizes or not isinstance(batch, int) or not len(log):
        return []
    if printed.get("batch_sampler", "batch_sampler") != "batch_sampler":
        return [verdict("steps", UNKNOWN, f"batch_sampler {printed['batch_sampler']} decides how many batches there are", key="about")]
    batch *= printed.get("gradient_accumulation_steps") or 1
    round_robin = printed.get("multi_dataset_batch_sampler") == "round_robin"
    whole = [math.ceil(size / batch) for size in sizes]
    expected = len(whole) * min(whole) if round_robin else sum(whole)
    last = log.loc[log["Epoch"].idxmax()]
    logged, slack = last["Step"] / last["Epoch"], 1 + len(sizes) + 6e-5 * last["Step"] / last["Epoch"] ** 2
    rows = " + ".join(f"{size:,}" for size in sizes)
    what = f"{rows} rows in batches of {batch} are {expected:,} steps per epoch; the log has {logged:,.0f}"
    shares = [count for count in range(1, 129) if abs(logged - expected / count) <= max(slack, 0.002 * logged)]
    if not shares:
        found = [verdict("steps", CERTAIN, f"{what}: they do not agree", key="about")]
    elif 1 in shares:
        found = [verdict("steps", CERTAIN, f"{what}: they agree", key="about")]
    else:
        found = [verdict("steps", LIKELY, f"{what}: they agree if {shares[0]} devices shared the work", key="about")]
    epochs, most = printed.get("num_train_epochs"), printed.get("max_steps", -1)
    if isinstance(most, int) and most <= 0 and isinstance(epochs, (int, float)) and log["Epoch"].max() > epochs + 1e-3:
        found.append(verdict("epochs", CERTAIN, f"the log goes to epoch {log['Epoch'].max()}, beyond the printed {epochs}", key="about"))
    return found


def missing(card: Card) -> list[dict]:
    """Return what a reader of the card would want to know and does not find."""
    front, model, facts = card.facts["front_matter"], card.facts["model"], card.facts
    lacks = {
        "evaluation": not (front.get("model-index") or "## Evaluation" in card.sections),
        "the name of the training data": not (front.get("datasets") or model["training_datasets"] or any(d["name"] for d in card.data)),
        "licence": not (front.get("license") or model["license"]),
        "language": not (front.get("language") or model["language"]),
        "base model": not (front.get("base_model") or facts["base_model"]),
        "training settings": not card.printed,
        "training log": not len(card.log),
        "version of the library": card.version is None,
        "front matter": not front,
    }
    found = [name for name, absent in lacks.items() if absent]
    return [verdict("missing", CERTAIN, f"the card does not say: {', '.join(found)}", key="about")] if found else []


def describe(found: dict) -> str:
    """Return an audit as text: one paragraph per verdict, and its evidence below it."""
    lines = []
    for name in ("entry_point", "head", "printed_settings"):
        lines.append(f"{name.replace('_', ' ')}: {found[name]['value']} ({found[name]['grade']})")
        lines += [f"    {sentence}" for sentence in found[name]["evidence"]]
    lines += ["findings:"] if found["findings"] else []
    lines += [f"    {one['about']} ({one['grade']}): {'; '.join(one['evidence'])}" for one in found["findings"]]
    return "\n".join(lines)
