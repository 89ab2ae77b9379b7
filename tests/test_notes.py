"""paper_notes.md: every function and every test that its tables name is there, every integrator has
a row, and the table of options is what options.py declares."""

import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

from diffedit_core.arguments import flag
from diffedit_core.integrators import INTEGRATORS
from diffedit_core.options import DECLARED, Options, RECIPES

ROOT = Path(__file__).parent.parent
NOTES = (ROOT / "paper_notes.md").read_text(encoding="utf-8")


def tables(text):
    """{heading: rows of cells} of the Markdown tables under each heading."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("|") and not line.startswith("|--"):
            found.setdefault(heading, []).append([c.strip() for c in line.strip("|").split("|")])
    return found


TABLES = tables(NOTES)
NAMED = [
    (cell, name)
    for rows in TABLES.values()
    for row in rows
    for cell in row
    for name in re.findall(r"`([\w.:]+)`", cell)
]
FUNCTIONS = sorted({name for _, name in NAMED if re.fullmatch(r"[a-z]\w*\.\w+", name)})
TESTS = sorted({name for _, name in NAMED if name.startswith("test_")})


@functools.lru_cache(maxsize=None)
def functions(file):
    """The names of the functions of a test file."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_tables():
    assert len(FUNCTIONS) > 20 and len(TESTS) > 20
    assert all(len(row) == len(rows[0]) for rows in TABLES.values() for row in rows)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_there(name):
    module, function = name.split(".")
    assert callable(getattr(importlib.import_module(f"diffedit_core.{module}"), function))


@pytest.mark.parametrize("name", TESTS)
def test_every_test_is_there(name):
    file, _, function = name.partition("::")
    assert (ROOT / "tests" / file).is_file()
    assert not function or function in functions(file)


def test_every_equation_has_a_function_and_a_test():
    for row in TABLES["Equations"][1:]:
        assert "`" in row[1] and "::" in row[2], row


def test_every_integrator_has_a_row():
    assert [row[0].strip("`") for row in TABLES["Integrators"][1:]] == list(INTEGRATORS)
    for row in TABLES["Integrators"][1:]:
        record, order = INTEGRATORS[row[0].strip("`")], row[4]
        assert int(order) == record.order
        up, down = record.evaluations(40)
        words = {40: "K", 80: "2K", 39: "(K-1)", 800: "up to 20 K"}
        assert row[5] == f"{words[up]} + {words[down]}"


def shown(value):
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


RECIPES_SHOWN = [name for name in RECIPES if name != "paper"]  # whose options are the defaults


def options_table():
    """The rows of the table of options, from their declarations."""
    yield ["option", "stage", "default", *RECIPES_SHOWN, "what it is"]
    for name, declared in DECLARED.items():
        default = getattr(Options(), name)
        others = [getattr(RECIPES[recipe], name) for recipe in RECIPES_SHOWN]
        changes = ["" if value == default else shown(value) for value in others]
        stage = ", ".join((declared.stage, *declared.also))
        named = name if declared.batch else f"--{flag(name)}"
        yield [f"`{named}`", stage, shown(default), *changes, declared.help]


def test_the_table_of_options_is_what_is_declared():
    wanted = list(options_table())
    if TABLES["Options"] != wanted:
        text = "\n".join(f"| {' | '.join(row)} |" for row in wanted)
        pytest.fail(f"the table under 'Options' has to be\n{text}")
