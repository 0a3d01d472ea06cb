"""What the releases of sentence-transformers do with a loss's own parameters: reading their source, running one, the record."""

import functools

import library_probe as probe  # research/library_probe.py
import library_versions as script  # research/library_versions.py
import pytest
from sentence_transformers import SentenceTransformer, __version__

from stlib import records

MODEL_ONLY = "def fit():\n    param_optimizer = list(self.named_parameters())\n"
OLD_FIT = "def old_fit():\n    param_optimizer = list(loss_model.named_parameters())\n"
BOTH = 'def fit():\n    param_optimizer = list(nn.ModuleDict({"model": self, **loss_fn_dict}).named_parameters())\n'
GROUPS = "groups = [p for n, p in loss_model.named_parameters() if n in decay_parameters]\n"
CLEARING = "class _OptimizerZeroGradCallback: ...\nself.add_callback(_OptimizerZeroGradCallback())\n"


@pytest.mark.parametrize(
    ("fit", "trainer", "said"),
    [
        (OLD_FIT + "optimizer.zero_grad()\n", None, (True, None, True)),
        (MODEL_ONLY + OLD_FIT, "", (False, False, False)),
        (MODEL_ONLY + OLD_FIT, GROUPS, (False, True, False)),
        (BOTH + OLD_FIT, CLEARING + GROUPS, (True, True, True)),
    ],
)
def test_the_source_decides(fit, trainer, said):
    found = script.decide(("fit_mixin.py", fit), None if trainer is None else ("trainer.py", trainer))
    assert (found["fit_head_in_optimizer"], found["trainer_head_in_optimizer"], found["gradients_cleared"]) == said
    assert found["fit_line"] == f"fit_mixin.py:2: {fit.splitlines()[1].strip()}"


def test_a_source_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match=r"fit_mixin\.py has no line"):
        script.decide(("fit_mixin.py", "def fit(): ...\n"), ("trainer.py", GROUPS))


def test_files_move_between_releases(tmp_path):
    for name, text in {"SentenceTransformer.py": "", "fit_mixin.py": MODEL_ONLY, "trainer.py": GROUPS}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert script.read_release(tmp_path)["trainer_line"].startswith("trainer.py:1: ")
    for name, text in {"sentence_transformer/fit_mixin.py": BOTH, "base/trainer.py": CLEARING}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = script.read_release(tmp_path)
    assert found["fit_line"].startswith("sentence_transformer/fit_mixin.py:2: ")
    assert found["clearing_line"] == "base/trainer.py:2: self.add_callback(_OptimizerZeroGradCallback())"


def test_each_release_has_what_it_needs():
    assert [script.dependencies(version) for version in ("2.7.0", "3.3.1", "3.4.0", "5.7.0", "6.0.0")] == [
        "deps-4.44", "deps-4.44", "deps-4.52", "deps-4.52", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "moved", "left_over", "head"),
    [
        (0, 0.0, 0.0, "none"),
        (2, 0.0, 9.0, "frozen"),
        (2, 0.1, 9.0, "trained, gradients added up"),
        (2, 0.1, 0.0, "trained"),
    ],
)
def test_what_is_true_of_a_card(parameters, moved, left_over, head):
    answer = {"parameters": parameters, "moved": moved, "left_over": left_over, "rates": [1e-5, 2e-5], "steps": 2}
    found = script.truth("4.1.0", {"entry_point": "fit"}, answer, "- `learning_rate`: 5e-05\n### Training Logs\n")
    assert (found["head"], found["printed_settings"], found["logs"]) == (head, "not used", True)
    assert script.truth("2.7.0", {"entry_point": "fit"}, answer, '"lr": 2e-05')["printed_settings"] == "used"
    assert script.truth("6.2.0", {"entry_point": "old_fit"}, answer, "")["printed_settings"] == "none printed"


def test_this_release_does_what_its_row_says(tmp_path, monkeypatch):
    rows = records.table("library_versions").set_index("version")
    if __version__ not in rows.index:
        pytest.skip(f"the record has no row for {__version__}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "SentenceTransformer", functools.partial(SentenceTransformer, local_files_only=True))
    probe.save_base(tmp_path / probe.BASE)
    for entry_point in ("fit", "trainer"):
        found, _ = probe.train(entry_point)
        assert (found["steps"], found["parameters"]) == (20, 2)
        assert found["in_optimizer"] == rows.loc[__version__, f"{entry_point}_head_in_optimizer"]
        assert (found["left_over"] == 0) == rows.loc[__version__, "gradients_cleared"]
        assert found["moved"] == pytest.approx(rows.loc[__version__, f"{entry_point}_head_moved"], rel=0.05)


def test_the_record():
    rows = {row["version"]: row for row in records.load("library_versions")["runs"]}
    versions = [script.numbers(version) for version in rows]
    assert versions == sorted(versions)
    assert {"2.7.0", "3.0.1", "3.4.1", "4.1.0", "5.1.2", "5.4.1", "6.1.0", "6.2.0"} <= rows.keys()
    for version, row in rows.items():
        since = script.numbers(version)
        assert row["fit_head_in_optimizer"] == (since < (3,) or since >= (6, 2))
        assert row["trainer_head_in_optimizer"] == (None if since < (3,) else since >= (3, 1))
        assert row["gradients_cleared"] == (since < (3,) or since >= (6, 2))
        assert row["fit_line"]
        assert row["clearing_line"]
        for name in ("fit", "trainer") if row["how_known"] == "ran and read" else ():
            assert (
                row[f"{name}_head_in_optimizer"] is None
                or (row[f"{name}_head_moved"] > 0) == row[f"{name}_head_in_optimizer"]
            )
    assert rows["4.1.0"]["fit_line"] == "fit_mixin.py:346: param_optimizer = list(self.named_parameters())"
    assert rows["4.1.0"]["fit_head_moved"] == 0 < rows["4.1.0"]["trainer_head_moved"]
    assert rows["4.1.0"]["trainer_last_gradient"] > 3 * rows["6.2.0"]["trainer_last_gradient"]
