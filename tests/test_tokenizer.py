"""The tokenizer: its laws, its parity with transformers on a reduced vocabulary, and its errors."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_core.errors import InputError
from diffedit_core.tokenizer import encode, load

FIXTURES = Path(__file__).parent / "fixtures" / "tokenizer"
REDUCED = FIXTURES / "reduced"
END = "<|endoftext|>"
FIXTURE = json.loads((FIXTURES / "ids.json").read_text(encoding="utf-8"))
WHITESPACE = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000"

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
# Without "<" a prompt cannot spell a special token; hypothesis tries the string constants of the
# code under test.
plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=60)
ascii_text = st.text(st.characters(max_codepoint=127, exclude_characters="<"), max_size=60)
word_lists = st.lists(st.text("abcXYZ019!'.é日", min_size=1, max_size=5), min_size=1, max_size=6)
runs = st.text(WHITESPACE, min_size=1, max_size=4)


def edit(folder, name, **changes):
    """Rewrite keys of a JSON file; a key set to `...` is removed."""
    content = json.loads((folder / name).read_text(encoding="utf-8")) | changes
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def body(tokenizer, text):
    """The ids between bos and the last eos that is not padding."""
    row = encode(tokenizer, text)[0].tolist()
    if tokenizer.pad == tokenizer.eos:
        return row[1 : row.index(tokenizer.eos)]
    return row[1 : len(row) - row[::-1].index(tokenizer.eos) - 1]


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(REDUCED, tmp_path / "tokenizer"))


@pytest.fixture(scope="module")
def pads(tmp_path_factory):
    """Two tokenizers: SD 2.x pads with "!", SD 1.x with the end token."""
    variant = Path(shutil.copytree(REDUCED, tmp_path_factory.mktemp("sd1") / "tokenizer"))
    edit(variant, "tokenizer_config.json", pad_token=END)
    edit(variant, "special_tokens_map.json", pad_token=END)
    return {"!": load(REDUCED), END: load(variant)}


@pytest.fixture(scope="module", params=["!", END])
def tokenizer(request, pads):
    return pads[request.param]


# Laws


@settings(max_examples=200, deadline=None)
@given(text=plain_text)
@pytest.mark.filterwarnings("ignore:the prompt has")
def test_a_row_is_bos_tokens_eos_padding(tokenizer, text):
    ids = encode(tokenizer, text)
    assert ids.shape == (1, 77) and ids.dtype == np.int32
    row = ids[0].tolist()
    assert row[0] == tokenizer.bos
    end = row.index(tokenizer.eos)
    assert set(row[end + 1 :]) <= {tokenizer.pad}
    assert tokenizer.bos not in row[1:]


@settings(max_examples=100, deadline=None)
@given(text=ascii_text)
def test_ascii_case_does_not_matter(tokenizer, text):
    assert np.array_equal(encode(tokenizer, text.upper()), encode(tokenizer, text.lower()))


@settings(max_examples=100, deadline=None)
@given(words=word_lists, gaps=st.lists(runs, min_size=7, max_size=7))
def test_any_run_of_whitespace_is_one_space(tokenizer, words, gaps):
    spaced = "".join(gap + word for gap, word in zip(gaps, words)) + gaps[-1]
    assert np.array_equal(encode(tokenizer, spaced), encode(tokenizer, " ".join(words)))


@settings(max_examples=100, deadline=None)
@given(words=word_lists)
def test_words_are_encoded_independently(tokenizer, words):
    assert body(tokenizer, " ".join(words)) == sum((body(tokenizer, word) for word in words), [])


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text("ab !", max_size=9), max_size=4))
def test_rows_of_a_batch_do_not_interact(tokenizer, texts):
    ids = encode(tokenizer, texts)
    assert ids.shape == (len(texts), 77)
    for row, text in zip(ids, texts):
        assert np.array_equal(row, encode(tokenizer, text)[0])


@settings(max_examples=50, deadline=None)
@given(text=any_text, length=st.integers(2, 12))
@pytest.mark.filterwarnings("ignore:the prompt has")
def test_a_shorter_row_keeps_the_first_tokens(tmp_path_factory, pads, text, length):
    folder = Path(shutil.copytree(REDUCED, tmp_path_factory.mktemp("short") / "tokenizer"))
    edit(folder, "tokenizer_config.json", model_max_length=length)
    short = load(folder)
    assert encode(short, text).shape == (1, length)
    assert body(short, text) == body(pads["!"], text)[: length - 2]


def test_the_two_paddings_differ_only_where_a_prompt_has_an_exclamation_mark(pads):
    sd2, sd1 = pads["!"], pads[END]
    assert (sd2.pad, sd1.pad) == (0, sd1.eos) and sd1.eos == sd2.eos
    assert body(sd2, "a cat, a dog") == body(sd1, "a cat, a dog")
    # SD 2.x: "!" is a special token with the padding's id; SD 1.x: an ordinary character that ends
    # a word.
    assert body(sd2, "cat!!") == body(sd2, "cat") + [0, 0]
    assert body(sd1, "cat!!")[-1] != 0


# Parity with transformers


@pytest.mark.filterwarnings("ignore:the prompt has")
@pytest.mark.parametrize("pad", ["!", END])
def test_ids_equal_those_of_transformers(pads, pad):
    assert len(FIXTURE["cases"]) >= 150
    tokenizer = pads[pad]
    for case in FIXTURE["cases"]:
        ids = case["ids"] if pad == "!" else case.get("ids_eos_pad", case["ids"])
        expected = ids + [FIXTURE["pad_ids"][pad]] * (77 - len(ids))
        assert encode(tokenizer, case["text"])[0].tolist() == expected, case["text"]


@pytest.mark.filterwarnings("ignore:the prompt has")
@pytest.mark.parametrize("merge", [list, " ".join], ids=["pairs", "strings"])
def test_a_lone_tokenizer_json_gives_the_same_ids(folder, pads, merge):
    whole = json.loads(pads["!"].library.to_str())
    whole["model"]["merges"] = [merge(pair) for pair in whole["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    texts = [case["text"] for case in FIXTURE["cases"]]
    assert np.array_equal(encode(load(folder), texts), encode(pads["!"], texts))


ANY_CASE = {
    "content": END,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
    "normalized": True,
}


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("layout", ["map", "decoder", "added", "config"])
def test_the_normalized_flag_decides_whether_a_special_token_may_be_upper_case(
    folder, layout, normalized
):
    token = ANY_CASE | {"normalized": normalized}
    if layout == "map":
        edit(folder, "special_tokens_map.json", eos_token=token, unk_token=token)
    if layout == "decoder":
        edit(
            folder,
            "tokenizer_config.json",
            added_tokens_decoder={"1413": token | {"special": True}},
        )
    if layout == "added":
        (folder / "tokenizer.json").write_text(
            json.dumps({"added_tokens": [token | {"id": 1413}]}), encoding="utf-8"
        )
    if layout == "config":
        (folder / "special_tokens_map.json").unlink()
        edit(
            folder,
            "tokenizer_config.json",
            eos_token=token,
            unk_token=token | {"__type": "AddedToken"},
        )
    tokenizer = load(folder)
    split = body(tokenizer, "a " + END.upper() + " b")
    assert (split == body(tokenizer, "a") + [tokenizer.eos] + body(tokenizer, "b")) == normalized


@pytest.mark.parametrize(
    "tokens, upper_case",
    [
        (
            {"unk_token": ANY_CASE, "pad_token": END},
            False,
        ),  # any case, any case, exact: the last wins
        (
            {"eos_token": END, "unk_token": ANY_CASE, "pad_token": END},
            True,
        ),  # exact, any case; the repeat is not counted
    ],
)
def test_of_special_tokens_with_one_text_the_last_new_one_wins(folder, tokens, upper_case):
    """As in transformers, which registers bos, eos, unk, pad in this order."""
    edit(folder, "special_tokens_map.json", **tokens)
    tokenizer = load(folder)
    assert (encode(tokenizer, END.upper())[0, 1] == tokenizer.eos) == upper_case


# Truncation and settings


def test_a_long_prompt_warns_with_the_text_it_drops(tokenizer):
    text = "The \n " * 73 + "1 2  Big CATS, and\tcafe\u0301s"
    with pytest.warns(UserWarning, match="the prompt has") as caught:
        ids = encode(tokenizer, ["short", text, text + "  too"])
    tails = [str(warning.message).split("dropped ")[1] for warning in caught]
    assert tails == [repr("Big CATS, and\tcafe\u0301s"), repr("Big CATS, and\tcafe\u0301s  too")]
    assert all(warning.filename == __file__ for warning in caught)
    assert (ids[1:, -1] == tokenizer.eos).all() and tokenizer.eos not in ids[1:, :-1]


def test_exactly_77_ids_fit_without_a_warning(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(tokenizer, "1" * 75)
        with pytest.raises(UserWarning, match="76 tokens and 75 fit: dropped '1'"):
            encode(tokenizer, "1" * 76)


@pytest.mark.parametrize("value", [..., None, 1e30, 10**30])
def test_an_unset_max_length_is_77(folder, value):
    edit(folder, "tokenizer_config.json", model_max_length=value)
    assert load(folder).max_length == 77


def test_special_tokens_default_to_those_of_clip(folder):
    (folder / "special_tokens_map.json").unlink()
    edit(
        folder, "tokenizer_config.json", bos_token=..., eos_token=..., unk_token=..., pad_token=...
    )
    tokenizer = load(folder)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1412, 1413, 1413)


# Errors


def write(name, text):
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def config(**changes):
    def change(folder):
        remove("special_tokens_map.json")(folder)
        edit(folder, "tokenizer_config.json", **changes)

    return change


BROKEN = {
    "no folder": (shutil.rmtree, "not a folder"),
    "no configuration": (remove("tokenizer_config.json"), "tokenizer_config.json is missing"),
    "no vocabulary": (remove("vocab.json"), "no vocab.json and no tokenizer.json"),
    "no merges": (remove("merges.txt"), "no merges.txt and no tokenizer.json"),
    "neither": (
        remove("vocab.json", "merges.txt"),
        "no vocab.json and merges.txt and no tokenizer.json",
    ),
    "vocabulary not JSON": (write("vocab.json", '{"a": 0,'), "vocab.json is missing or unreadable"),
    "vocabulary not an object": (write("vocab.json", '["a"]'), "vocab.json .*not a JSON object"),
    "vocabulary without ids": (write("vocab.json", '{"a": "0"}'), "must map tokens to ids"),
    "vocabulary of negative ids": (write("vocab.json", '{"a": -1}'), "must map tokens to ids"),
    "configuration not JSON": (
        write("tokenizer_config.json", "pad: !"),
        "tokenizer_config.json is missing or unread",
    ),
    "map not JSON": (
        write("special_tokens_map.json", ""),
        "special_tokens_map.json is missing or unreadable",
    ),
    "configuration not UTF-8": (
        lambda f: (f / "tokenizer_config.json").write_bytes(b"\xff"),
        "unreadable",
    ),
    "merge of three": (
        write("merges.txt", "#version: 0.2\ni n\nt h e\n"),
        "merges.txt: merge 2 't h e'",
    ),
    "merge of one": (write("merges.txt", "#version: 0.2\nin\n"), "merges.txt: merge 1 'in'"),
    "merge of unknown": (  # of a sign that the vocabulary lacks
        write("merges.txt", "#version: 0.2\ni ☃\n"),
        "merges.txt: merge 1 'i ☃'",
    ),
    "merge to unknown": (write("merges.txt", "#version: 0.2\nq x\n"), "merges.txt: merge 1 'q x'"),
    "unknown pad": (config(pad_token="[PAD]"), r"'\[PAD\]' is not in the vocabulary"),
    "unknown eos": (config(eos_token={"content": "</s>"}), "'</s>' is not in the vocabulary"),
    "pad of no type": (config(pad_token=0.5), "pad_token = 0.5 must be"),
    "pad without text": (config(pad_token={"lstrip": False}), "pad_token = .* must be"),
    "unknown added token": (
        config(added_tokens_decoder={"9": {"content": "<sks>"}}),
        "'<sks>' is not in",
    ),
    "unknown added token, older layout": (
        write("added_tokens.json", '{"<sks>": 9}'),
        "'<sks>' is not in",
    ),
    "extra tokens": (
        config(additional_special_tokens=["<a>"]),
        "additional_special_tokens = .* not supported",
    ),
    "padding on the left": (config(padding_side="left"), "padding_side = 'left' is not supported"),
    "no room": (config(model_max_length=1), "model_max_length = 1 must be"),
    "length of no type": (config(model_max_length="77"), "model_max_length = '77' must be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_with_its_name_and_the_remedy(folder, case):
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and ": " in str(caught.value)


def test_a_tokenizer_json_of_another_model_is_refused(folder):
    remove("vocab.json")(folder)
    write("tokenizer.json", '{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}')(folder)
    with pytest.raises(InputError, match="must map tokens to ids"):
        load(folder)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", ["fine", "no \ud83d good"]])
def test_a_lone_surrogate_is_refused(tokenizer, text):
    with pytest.raises(InputError, match="lone surrogate at index .: remove it"):
        encode(tokenizer, text)
