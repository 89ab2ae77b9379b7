"""diffedit_core.limits: words that a model never saw, and pictures that it cannot hold."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.orchard import layout, world
from diffedit_core import limits
from diffedit_core.folder import ORCHARD, describe
from diffedit_core.hub import needed_files
from tests.test_config import refused
from tests.test_model import LISTING, MICRO

LIST = {"about": "apples", "words": ["a", "apple", "Äpfel"], "neutral": ["photo"]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / limits.WORDS_FILE).write_text(json.dumps(LIST), encoding="utf-8")
    return tmp_path


def test_each_unknown_word_is_named_once_in_its_order(folder):
    texts = ["A photo of an apple, a CAT", "a cat's äpfel; 3 猫!", ""]
    assert limits.unknown_words(folder, texts) == ["of", "an", "cat", "s", "3", "猫"]
    said = limits.words_sentence(folder, texts)
    for word in ("knows apples", "not: of, an, cat", "--model", "weights_convert convert"):
        assert word in said


@given(
    words=st.lists(st.sampled_from(LIST["words"] + LIST["neutral"])),
    gap=st.sampled_from([" ", ", ", "\n", "; (", "! "]),
    case=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_known_words_are_never_named(tmp_path_factory, words, gap, case):
    place = tmp_path_factory.getbasetemp()
    (place / limits.WORDS_FILE).write_text(json.dumps(LIST), encoding="utf-8")
    assert limits.unknown_words(place, [case(gap.join(words))]) == []


def test_a_model_without_a_list_says_nothing(tmp_path):
    assert limits.unknown_words(tmp_path, ["a cat"]) == []
    assert limits.words_sentence(tmp_path, ["a cat"]) is None
    assert describe(MICRO)["knows"] is None


@pytest.mark.parametrize(
    "content",
    ["[]", "3", "{}", '{"about": 3, "words": []}', '{"about": "x", "words": ["a", 3]}', "{"],
)
def test_a_damaged_list_is_refused(content, tmp_path):
    (tmp_path / limits.WORDS_FILE).write_text(content)
    refused(lambda: limits.unknown_words(tmp_path, ["a"]), tmp_path / limits.WORDS_FILE)


def test_the_list_of_the_shipped_model_is_that_of_its_captions():
    """Regenerate it by `layout.write_json(ORCHARD / WORDS_FILE, layout.known_words())`."""
    assert limits.known_words(ORCHARD) == layout.known_words()
    assert describe(ORCHARD)["knows"].startswith("apples, strawberries")


def test_the_shipped_model_knows_its_captions_and_no_cats():
    texts = [text for seed in range(40) for text in world.captions(world.sample_scene(seed))]
    assert limits.unknown_words(ORCHARD, texts + ["a photo of a bowl of fruits"]) == []
    asked = ["a photo of a cat on a sofa", "a photo of a dog on a sofa", "a red apple"]
    assert limits.unknown_words(ORCHARD, asked) == ["cat", "sofa", "dog", "red"]


def test_the_list_is_fetched_where_there_is_one():
    assert limits.WORDS_FILE in needed_files([*LISTING, limits.WORDS_FILE], False)


@given(st.floats(0.01, 1.9), st.integers(0, 9))
def test_psnr_of_a_constant_error(size, seed):
    source = np.where(np.random.default_rng(seed).random((1, 3, 5, 7)) < 0.5, -1.0, 1.0)
    found = limits.round_trip_psnr(source, source - size * np.sign(source))
    assert found == pytest.approx(20 * np.log10(2 / size), abs=1e-9)


def test_psnr_is_of_what_can_be_seen():
    source = np.ones((1, 3, 2, 2), np.float32)
    assert limits.round_trip_psnr(source, source) == np.inf
    assert limits.round_trip_psnr(source, 1.5 * source) == np.inf


def test_the_sentence_about_a_picture_comes_below_the_limit_only():
    source = np.zeros((1, 3, 4, 4))
    error = 2 / 10 ** (limits.ROUND_TRIP_DB / 20)
    assert limits.picture_sentence(source, source + 0.99 * error) is None
    said = limits.picture_sentence(source, source + 1.01 * error)
    assert "21.9 dB" in said and "cannot hold this picture" in said and "--model" in said


def test_needs_no_mindspore():
    code = "import sys; from diffedit_core import limits; assert 'mindspore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
