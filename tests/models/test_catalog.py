from __future__ import annotations

import pytest

from lrqk_cli.errors import ModelError
from lrqk_cli.models import catalog
from lrqk_cli.models.catalog import HubRepository
from lrqk_cli.models.describe import describe

_HUB_ENTRY = """
["big-one"]
description = "A big one"
license = "MIT"
context = 4096
size_bytes = 10
huggingface = { repository = "owner/big-one", revision = "abc" }
"""


def test_the_default_model_is_in_the_catalog():
    assert next(iter(catalog.catalog())) == catalog.DEFAULT_MODEL


def test_every_shipped_entry_says_what_it_is_and_where_it_comes_from():
    for alias, entry in catalog.catalog().items():
        assert entry.alias == alias
        assert entry.description
        assert entry.license
        assert entry.config["max_position_embeddings"] == entry.context
        if entry.wheels:
            assert entry.size_bytes == sum(part.size_bytes for part in entry.wheels)
        assert len({part.member for part in entry.wheels}) == len(entry.wheels)


# From a hub that nobody here has reached: repository, file and size are those of model cards, the hash is
# pinned at the first pull, and the configuration is the published one.
UNVERIFIED = {
    "qwen3-4b-instruct",
    "llama-3.1-8b-instruct",
    "qwen3-8b-instruct",
    "mistral-nemo-12b-instruct",
    "qwen2.5-14b-instruct-1m",
    "qwen3-14b-instruct",
    "mistral-small-24b-instruct",
    "qwen2.5-32b-instruct",
    "qwen3-30b-a3b-instruct",
}


def test_what_nobody_has_run_is_marked_so():
    assert {alias for alias, entry in catalog.catalog().items() if not entry.tried} == UNVERIFIED


@pytest.mark.parametrize("alias", sorted(UNVERIFIED))
def test_an_unverified_entry_is_one_gguf_file_of_about_the_size_that_its_weights_have(alias: str):
    entry = catalog.find(alias)
    assert entry.is_gguf
    assert entry.huggingface is not None
    assert str(entry.huggingface.file).endswith("Q4_K_M.gguf")
    assert not entry.sha256
    (weights,) = describe(alias).spec.forms
    # Scales take 2% more on a device, and the vocabulary some megabytes in the file.
    assert weights.form == "gguf"
    assert 0.98 < weights.total / entry.size_bytes < 1.04


def test_an_entry_may_name_a_repository():
    entry = catalog.parse_catalog(_HUB_ENTRY)["big-one"]
    assert entry.huggingface == HubRepository("owner/big-one", "abc")
    assert entry.wheels == ()
    assert entry.config == {}


@pytest.mark.parametrize(
    "text",
    [
        _HUB_ENTRY.replace("huggingface", "# huggingface"),
        _HUB_ENTRY + 'wheels = [{ distribution = "a", version = "1", member = "m", size_bytes = 1 }]\n',
    ],
    ids=["no source", "two sources"],
)
def test_an_entry_has_exactly_one_kind_of_source(text: str):
    with pytest.raises(ValueError, match="either wheels or a Hugging Face repository"):
        catalog.parse_catalog(text)


def test_wheels_need_a_hash():
    text = _HUB_ENTRY.split("size_bytes")[0]
    text += 'wheels = [{ distribution = "a", version = "1", member = "m", size_bytes = 1 }]\n'
    with pytest.raises(ValueError, match="sha256"):
        catalog.parse_catalog(text)


def test_a_misspelt_alias_is_answered_with_the_closest():
    with pytest.raises(ModelError) as caught:
        catalog.find("qwen2.5-coder")
    assert "qwen2.5-coder-0.5b" in caught.value.hint


def test_an_alias_like_no_other_is_answered_with_all():
    assert all(alias in catalog.suggestion("zzz") for alias in catalog.catalog())
