"""List the licences of everything that requirements.txt installs here, and of the data: writes docs/licences.md.

python tools/licences.py
"""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = {  # the corpora that the course can read; only those of stlib/mini are part of it
    "stlib/mini (all corpora there)": "CC BY 4.0, written for this course",
    "SNLI": "CC BY-SA 4.0 (Bowman et al. 2015)",
    "STS 2012 to 2016, STS benchmark": "by source, see the pages of SemEval; for research",
    "SICK": "CC BY-NC-SA 3.0 (Marelli et al. 2014)",
    "Banking77": "CC BY 4.0 (Casanueva et al. 2020)",
    "CR, MR, MPQA, Subj, SST-2, TREC": "no licence stated by their authors; for research",
    "all-MiniLM-L6-v2 (weights)": "Apache-2.0",
}


def main() -> int:
    names = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    lines = ["# Licences", "", "Made by `tools/licences.py` from what the packages say about themselves.", ""]
    lines += ["## Packages", "", "| package | licence |", "| --- | --- |"]
    lines += [f"| {name} | {licence(name)} |" for name in sorted(set(names))]
    lines += ["", "## Data and weights", "", "| what | licence |", "| --- | --- |"]
    lines += [f"| {name} | {text} |" for name, text in DATA.items()]
    (ROOT / "docs" / "licences.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return 0


def licence(name: str) -> str:
    """The licence expression of a package, else its first classifier, else the first line of its licence field."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed on this system: see its page"
    classifiers = [text.split(" :: ")[-1] for text in about.get_all("Classifier", []) if text.startswith("License :: ")]
    field = (about.get("License") or "").strip().splitlines()
    return about.get("License-Expression") or "; ".join(classifiers) or (field[0] if field else "see its files")


if __name__ == "__main__":
    sys.exit(main())
