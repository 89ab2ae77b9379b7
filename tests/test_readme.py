"""Every command of README.md is what it says: the first one runs, the second is what the gate
runs."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.ablation import cli as ablation
from benchmarks.kernels import arguments
from diffedit_core import cli
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.model import Model
from weights_convert import cli as converter

from .tiny import shared_load

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    """The shipped model compiles once for all commands and examples."""
    monkeypatch.setattr(Model, "load", shared_load)


def block(mark):
    return (
        re.search(rf"<!-- {mark} -->\n```sh\n(.*?)```\n<!-- end -->", TEXT, re.S)
        .group(1)
        .strip()
        .splitlines()
    )


def test_first_command_edits_the_picture(tmp_path, monkeypatch, capsys):
    install, command = block("run")
    assert "pip install ." in install
    words = shlex.split(command)
    assert words[0] == "diffedit"
    picture = ROOT / words[2]
    assert picture.is_file()
    words[2] = str(picture)
    monkeypatch.chdir(tmp_path)
    assert cli.main(words[1:] + ["--quiet"]) == 0
    size = Image.open(picture).size
    assert Image.open("oranges.png").size == Image.open("mask.png").size == size
    share = (np.asarray(Image.open("mask.png")) > 127).mean()
    assert 0.05 < share < 0.5, "the mask is the bowl, neither nothing nor everything"
    shown = Image.open(ROOT / re.search(r"!\[.*?\]\((.*?)\)", TEXT).group(1))
    assert (
        Image.open("grid.png").size == shown.size
    ), "README shows the grid that this command makes"


def test_second_command_runs_these_tests():
    assert block("test")[-1] == "python -m pytest tests -n 2 --dist loadfile"


def test_the_guides_pair_works(tmp_path, monkeypatch, capsys):
    """The second command: the mask is a part of the picture, and the picture changes there."""
    (command,) = block("fruits")
    words = shlex.split(command)
    picture = words[2] = str(ROOT / words[2])
    monkeypatch.chdir(tmp_path)
    assert cli.main(words[1:] + ["--mask-out", "mask.png", "--quiet"]) == 0
    before, after = (np.asarray(Image.open(p).convert("RGB"), float) for p in (picture, words[-1]))
    mask = np.asarray(Image.open("mask.png")) > 127
    changed = np.abs(before - after).mean(-1)
    assert 0.05 < mask.mean() < 0.6 and changed[mask].mean() > 5 * changed[~mask].mean()


def test_python_examples_are_right(tmp_path, monkeypatch):
    """They stand in one file, in their order, as a reader would type them; here the picture has
    half the side, which takes less time."""
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(examples) == 7
    code = "\n\n".join(examples)
    picture = "diffedit_core/assets/bowl_of_apples.png"
    assert code.count(f'"{picture}")') == 1 and code.count("(4, 32, 32)") == 4
    with Image.open(ROOT / picture) as image:
        image.reduce(2).save(tmp_path / "small.png")
    code = code.replace(picture, str(tmp_path / "small.png")).replace("(4, 32, 32)", "(4, 16, 16)")
    (tmp_path / "examples_of_the_readme.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(INTEGRATORS)
    try:
        written = importlib.import_module("examples_of_the_readme")
        experiments_run(written.MEDIAN, tmp_path)
    finally:
        INTEGRATORS.clear()
        INTEGRATORS.update(before)
    assert Image.open("lemons.png").size == (128, 128)
    for example in examples[3:]:
        assert len([line for line in example.splitlines() if line.strip()]) <= 14


def experiments_run(experiment, folder):
    """The README's experiment on a scene less, as its command runs it."""
    from benchmarks.ablation import engine

    arguments = ablation.parser().parse_args(
        ["median", "--out", str(folder), "--scenes", "1", "--size", "128"]
    )
    experiment = ablation.adjusted(experiment, arguments)
    job = engine.lay_out(experiment, ablation.bench_of(arguments), folder)
    planned = job.plan
    assert engine.run(job) == (0, planned.shared) and planned.alone == 2 * planned.shared
    ablation.show(experiment, arguments)


def test_named_files_exist():
    for name in re.findall(r"`(\w+\.py)`", TEXT):
        assert (ROOT / "diffedit_core" / name).is_file(), name


def test_flags_exist():
    known = cli.parser()._subparsers._group_actions[0].choices["edit"]._option_string_actions
    convert = (
        converter.parser()._subparsers._group_actions[0].choices["convert"]._option_string_actions
    )
    weights = re.search(r"(?s)## Weights in other files.*?(?=\n## )", TEXT)[0]
    ablations = re.search(r"(?s)## Ablations.*?(?=\n## )", TEXT)[0]
    device = re.search(r"(?s)## On an Ascend device.*?(?=\n## )", TEXT)[0]
    measuring = [line for line in TEXT.splitlines() if "python -m benchmarks.kernels" in line]
    rest = TEXT
    for part in (weights, ablations, device, *measuring):
        rest = rest.replace(part, "")
    sections = (
        (rest, known),
        (weights, convert),
        (ablations, ablation.parser()._option_string_actions),
        (device + "\n".join(measuring), arguments.parser()._option_string_actions),
    )
    for written, flags in sections:
        for flag in set(re.findall(r"(--[a-z][a-z0-9-]+)", written)) - {"--help", "--dist"}:
            assert flag in flags, flag


def test_commands_for_a_device_are_understood():
    """They need one to say much, so that they are only parsed here; what one writes, the other
    reads."""
    commands = [shlex.split(line) for line in block("ascend")]
    assert len(commands) == 3
    given = []
    for command in commands:
        assert command[:3] == ["python", "-m", "benchmarks.kernels"]
        given.append(arguments.parser().parse_args(command[3:]))
        arguments.check(given[-1])
    assert given[2].from_file == given[1].out and given[2].bundle in TEXT
