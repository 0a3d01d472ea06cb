"""Read a model card that the library generated: its facts as data, and its sections as text."""

import ast
import re

import yaml

from stlib.settings import UsageError

HEADING = re.compile(r"^#{1,6} .+$", re.MULTILINE)


def read_card(text: str) -> dict:
    """The facts of a card, in the shape of ``published.json``.

    Keys: ``front_matter``, ``base_model``, ``model``, ``sources``, ``usage_sentences``, ``dataset``,
    ``non_default_hyperparameters``, ``hyperparameters``, ``log``, ``versions``, ``sections``. What the card lacks is None
    or empty.

    Raises:
        UsageError: the text does not begin with the front matter of a model card.
    """
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if front is None:
        raise UsageError(
            "this is no model card: it does not begin with a front matter between two lines of three dashes"
        )
    parts = sections(text)
    details = parts.get("### Model Description", "")
    base = re.search(r"\*\*Base model:\*\* \[(.+?)\](?:.*at revision (\w+))?", details)
    architecture = re.search(r"```\n(.*?)\n```", parts.get("### Full Model Architecture", ""), re.DOTALL)
    usage = parts.get("### Direct Usage (Sentence Transformers)", "")
    sentences = re.search(r"^sentences = (\[.*?^\])", usage, re.DOTALL | re.MULTILINE)
    return {
        "front_matter": yaml.safe_load(front[1]),
        "base_model": {"id": base[1], "revision": base[2]} if base else None,
        "model": {
            "type": after(details, "Model Type"),
            "max_seq_length": number(after(details, "Maximum Sequence Length")),
            "dimensions": number(after(details, "Output Dimensionality")),
            "similarity": after(details, "Similarity Function"),
            "architecture": architecture[1] if architecture else None,
            "training_datasets": re.findall(r"^    - \[?(.+?)\]?(?:\(.*)?$", details, re.MULTILINE),
            "language": after(details, "Language"),
            "license": after(details, "License"),
            "modalities": after(details, "Supported Modality"),
        },
        "sources": dict(
            re.findall(r"^- \*\*(.+?):\*\* \[.*?\]\((.+?)\)$", parts.get("### Model Sources", ""), re.MULTILINE)
        ),
        "usage_sentences": ast.literal_eval(sentences[1]) if sentences else [],
        "dataset": read_dataset(parts),
        "non_default_hyperparameters": settings(parts.get("#### Non-Default Hyperparameters", "")),
        "hyperparameters": settings(parts.get("#### All Hyperparameters", "")),
        "log": read_log(parts.get("### Training Logs", "")),
        "versions": dict(re.findall(r"^- (.+?): (.+)$", parts.get("### Framework Versions", ""), re.MULTILINE)),
        "sections": list(parts),
    }


def sections(text: str) -> dict[str, str]:
    """The text under each heading, up to the next heading of any level. Headings inside code do not count."""
    outside = re.sub(
        r"^```.*?^```$", lambda code: re.sub(r"(?m)^#", " ", code[0]), text, flags=re.DOTALL | re.MULTILINE
    )
    outside = re.sub(
        r"^---\n.*?\n---$", lambda front: " " * len(front[0]), outside, count=1, flags=re.DOTALL | re.MULTILINE
    )
    found = list(HEADING.finditer(outside))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    return {heading[0]: text[heading.end() : end].strip() for heading, end in zip(found, ends, strict=True)}


def after(text: str, name: str) -> str | None:
    """What stands behind ``- **name:**``; None in a comment, which is where the library puts what it does not know."""
    found = re.search(rf"^- \*\*{name}:\*\* (.+)", text, re.MULTILINE)
    return found[1] if found else None


def number(text: str | None) -> int | None:
    """The whole number that ``text`` begins with, such as 549,367."""
    found = re.match(r"[\d,]+", text or "")
    return int(found[0].replace(",", "")) if found else None


def settings(text: str) -> dict:
    """The lines ``- `name`: value`` with their values as Python's own types."""
    return {name: typed(value) for name, value in re.findall(r"^- `(\w+)`: ?(.*)$", text, re.MULTILINE)}


def typed(value: str):
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def read_dataset(parts: dict[str, str]) -> dict | None:
    """Rows, columns, statistics, samples and loss of the first training data set."""
    names = list(parts)
    if "### Training Dataset" not in names:
        return None
    text = parts[names[names.index("### Training Dataset") + 1]]
    columns = re.search(r"^\* Columns: (.+)$", text, re.MULTILINE)
    columns = re.findall(r"<code>(.*?)</code>", columns[1]) if columns else []
    statistics, samples = table(text, "statistics"), table(text, "Samples")
    rows = {name: dict(zip(columns, cells, strict=False)) for name, *cells in statistics}
    loss = re.search(r"^\* Loss: .*?<code>(\w+)</code>", text, re.MULTILINE)
    return {
        "rows": number(re.search(r"^\* Size: (.+)$", text, re.MULTILINE)[1]),
        "columns": columns,
        "statistics_rows": number(re.search(r"first ([\d,]+) samples", text)[1]),
        "statistics": {
            name: statistic(
                rows.get("type", rows.get("dtype", {})).get(name, ""), rows.get("details", {}).get(name, "")
            )
            for name in columns
        },
        "samples": [
            dict(zip(columns, [typed_sample(cell) for cell in cells], strict=True)) for cells in samples if cells
        ],
        "loss": loss[1] if loss else None,
    }


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the Markdown table that follows the line ``* … title …``, without its head."""
    found = re.search(rf"^\* .*{title}.*\n((?: *\|.*\n?)+)", text, re.MULTILINE)
    lines = found[1].strip().splitlines()[2:] if found else []
    return [[cell.strip() for cell in line.strip().strip("|").split(" |")] for line in lines]


def statistic(kind: str, details: str) -> dict:
    tokens = re.findall(r"(min|mean|max): ([\d.]+) tokens", details)
    percent = re.findall(r"(\d+): ~([\d.]+)%", details)
    values = {name: typed(value) for name, value in tokens}
    return {
        "type": kind,
        **values,
        **({"percent": {label: float(share) for label, share in percent}} if percent else {}),
    }


def typed_sample(cell: str):
    text = re.search(r"<code>(.*)</code>", cell, re.DOTALL)[1]
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def read_log(text: str) -> list[list[float]]:
    """Epoch, step and training loss of each row that has a loss."""
    rows = re.findall(r"^\| \**([\d.]+)\** +\| \**(\d+)\** +\| \**([\d.]+)\** +\|", text, re.MULTILINE)
    return [[float(epoch), int(step), float(loss)] for epoch, step, loss in rows]
