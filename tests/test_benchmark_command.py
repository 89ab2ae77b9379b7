"""How the benchmarks' commands end."""

import pytest

from benchmarks import integrators
from benchmarks.command import command
from benchmarks.orchard import backgrounds, evaluate, masks
from diffedit_core.errors import InputError


@pytest.mark.parametrize("returned, code", ((None, 0), (0, 0), (1, 1)))
def test_a_command_ends_with_what_it_returns(returned, code):
    assert command("say")(lambda words: returned)(["a"]) == code


def test_a_wrong_input_is_one_line(capsys):
    @command("say")
    def main(words):
        raise InputError(f"{words[0]} is\n  wrong: leave it out.")

    assert main(["b"]) == 2
    assert capsys.readouterr().err == "say: b is wrong: leave it out.\n"


@pytest.mark.parametrize(
    "module, words",
    (
        (integrators, "--out rows.jsonl"),
        (masks, ""),
        (backgrounds, "--work edits"),
        (evaluate, "--out results"),
    ),
)
def test_a_model_that_is_not_there(module, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert module.main([*words.split(), "--model", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "nowhere" in said
    assert not list(tmp_path.iterdir())
