import numpy as np
import pytest
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from stlib.averaging import average_runs
from stlib.errors import UsageError
from stlib.recipes import Recipe
from stlib.training import train
from tests.tiny import SIZE

RECIPE = Recipe("tried", "a recipe of the tests", loss="mnrl", short=True, epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def options(tiny_model):
    return {"recipe": RECIPE, "profile": "mini", "start": tiny_model}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("runs")
    return [train(out=folder / f"seed{seed}", nli_split="train[:60]", seed=seed, **options) for seed in (1, 2)]


def test_every_weight_is_the_mean(runs, tmp_path):
    averaged = average_runs(runs, tmp_path / "soup")
    first, second, mean = (load_file(run.model_folder / "model.safetensors") for run in (*runs, averaged))
    assert mean.keys() == first.keys()
    for name, value in mean.items():
        np.testing.assert_allclose(value, (first[name] + second[name]) / 2, atol=1e-7)
    assert SentenceTransformer(str(averaged.model_folder), device="cpu").encode("A man sleeps.").shape == (SIZE,)
    assert [part["seed"] for part in averaged.info["averaged"]] == [1, 2]
    assert averaged.info["steps"] == sum(run.info["steps"] for run in runs)


def test_what_cannot_be_averaged_is_refused_and_nothing_is_written(runs, tmp_path, options):
    with pytest.raises(UsageError, match="two or more"):
        average_runs(runs[:1], tmp_path / "soup")
    other = train(out=tmp_path / "other", nli_split="train[:90]", seed=1, **options)
    with pytest.raises(UsageError, match="differ in their"):
        average_runs([runs[0], other], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
    (tmp_path / "soup").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        average_runs(runs, tmp_path / "soup")
