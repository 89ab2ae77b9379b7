"""Where things live: imports point one way, one file knows devices, and the generated parameter
listing is true."""

import ast
import configparser
import re
import subprocess
from pathlib import Path

import pytest

from diffedit_core import model as M, params as P

from . import mutations

ROOT = Path(__file__).parent.parent
CORE = ROOT / "diffedit_core"
LISTING = Path(__file__).parent / "fixtures" / "param_format.txt"
FIRST_LINE = (
    "# Every parameter of the shipped model. Written by `python -m tests.test_layout`; a test "
    "keeps it true."
)

# The modules in the order of the tables of diffedit_core/README.md.
TABLES = (CORE / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
ORDER = re.findall(r"`(\w+)(?:\.py|/)`", "\n".join(
    line.split("|")[1] for line in TABLES.splitlines() if line.startswith("|")))  # fmt: skip
MODULES = sorted([*(p.stem for p in CORE.glob("*.py")), "kernels"])  # kernels is a folder of files

# The same for the converter, with what it may import of the core after the bar.
CONVERTER = ROOT / "weights_convert"
CONVERT_ARROWS = {
    "tensors": "",
    "engine": "tensors",
    "rules_diffusers": "engine",
    "rules_original": "engine",
    "rules_lora": "engine",
    "rules_training": "engine",
    "rules_mindone": "engine rules_original",
    "inert": "",
    "pickle_machine": "inert tensors",
    "unpickled": "inert tensors",
    "safetensors_file": "tensors",
    "torch_zip": "inert pickle_machine tensors unpickled",
    "mindspore_ckpt": "tensors",
    "sources": "safetensors_file torch_zip mindspore_ckpt | settings",
    "leaves": "| config params clip unet vae",
    "infer": "rules_lora rules_original",
    "tokenizer_files": "sources",
    "low_rank": "engine rules_lora sources tensors",
    "words": "sources tensors unpickled",
    "output": "tensors safetensors_file mindspore_ckpt",
    "reading": "engine infer leaves rules_diffusers rules_mindone rules_original rules_training "
    "sources tokenizer_files | config",
    "writing": "engine output reading sources tensors",
    "convert": "infer low_rank output reading sources tensors words writing | config",
    "verify": "output sources tensors",
    "inspect": "infer low_rank sources tensors unpickled",
    "cli": "convert inspect verify",
    "__init__": "convert inspect verify",
    "__main__": "cli",
}


def imported(tree):
    """Modules of the package that a syntax tree imports, also within functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if node.level == 1:
                found |= {parts[0]} if node.module else {alias.name for alias in node.names}
            elif node.level > 1 or parts[0] in ("tests", "benchmarks", "weights_convert"):
                found.add("." * node.level + (node.module or ""))
            elif parts[0] == "diffedit_core":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("diffedit_core.")
            }
    return found


def syntax(module):
    """One tree, of all its files where it is a folder; `from ..errors` of such a file becomes `from
    .errors`, and what it imports from its own folder is left out."""
    if not (CORE / module).is_dir():
        return ast.parse((CORE / f"{module}.py").read_text(encoding="utf-8"))
    body = []
    for file in sorted((CORE / module).glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                node.level -= 1
                if not node.level:
                    continue
            body.append(node)
    return ast.Module(body, [])


def strings(tree):
    """String constants that are no docstrings."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        and ast.get_docstring(node) is not None
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    ]


# ---- imports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    """Each module imports modules that stand before it in the package's README; a new one needs a
    place there first. Those at its ends import what they like."""
    if not module.startswith("__"):
        assert imported(syntax(module)) <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", ("schedule", "mask", "integrators", "options", "background"))
def test_the_equations_know_no_model(module):
    assert not set(ORDER[: ORDER.index(module)]) & {"params", "kernels", "unet", "model", "walk"}


@pytest.mark.parametrize("module", sorted(p.stem for p in CONVERTER.glob("*.py")))
def test_imports_of_the_converter_point_one_way(module):
    """Of the core it uses the configurations and, in one place, the parameters and each model's
    specs."""
    own, _, core = CONVERT_ARROWS[module].partition("|")
    tree = ast.parse((CONVERTER / f"{module}.py").read_text(encoding="utf-8"))
    relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert imported(ast.Module(relative, [])) <= set(own.split())
    absolute = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and node not in relative
    ]
    assert imported(ast.Module(absolute, [])) - {"errors"} <= set(core.split())


def test_the_table_has_no_circle():
    arrows = {module: line.partition("|")[0] for module, line in CONVERT_ARROWS.items()}

    def depth(module, path=()):
        assert module not in path, " -> ".join((*path, module))
        return 1 + max((depth(m, (*path, module)) for m in arrows[module].split()), default=0)

    assert all(depth(module) for module in arrows)


@pytest.mark.parametrize(
    "line",
    [
        "from . import model",
        "from .model import Model",
        "from diffedit_core.model import Model",
        "import diffedit_core.model",
        "from diffedit_core import model",
        "def f():\n    from . import params as P, model as M",
    ],
)
def test_no_form_of_import_is_missed(line):
    assert "model" in imported(ast.parse(line))


def test_nothing_of_the_package_imports_torch():
    """Nor what is only for development."""
    for file in [
        *CORE.rglob("*.py"),
        *CONVERTER.rglob("*.py"),
        *Path(__file__).parent.glob("*.py"),
    ]:
        roots = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            for name in (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom) and not node.level
                    else []
                )
            )
        }
        assert not roots & {"torch", "diffusers", "transformers"}, file
        if file.is_relative_to(CORE) or file.is_relative_to(CONVERTER):
            assert not roots & {"tests", "benchmarks", "hypothesis", "pytest"}, file


def test_the_package_readme_names_every_file():
    """Once, in its tables; and it names none that is not there."""
    assert sorted(ORDER) == sorted(m for m in MODULES if not m.startswith("__"))


# ---- reading -------------------------------------------------------------------------------------

LISTED = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
FILES = [ROOT / name for name in LISTED.stdout.split()]


def test_lines_have_at_most_100_characters():
    wide = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in FILES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100
    ]
    assert FILES and not wide


def test_files_of_the_core_are_short():
    core = [file for file in FILES if CORE in file.parents]
    assert core and not [f.name for f in core if len(f.read_text("utf-8").splitlines()) > 300]


def test_functions_are_short():
    """At most 60 lines, with their docstrings."""
    long = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= 60
    ]
    assert not long


# ---- devices -------------------------------------------------------------------------------------

DEVICES = ("CPU", "Ascend", "GPU")


CPU_ONLY = ("pipeline_switches", "weights", "graph_cache")


def test_only_kernels_choose_by_device():
    """Elsewhere a device is asked for through `kernels.device` only: whether weights can be given
    back, whether graphs are kept in files (and `pipe.cpu()` names one)."""
    asked = {
        module: {s for s in strings(syntax(module)) if s in DEVICES or s == "device_target"}
        for module in MODULES
    }
    assert asked.pop("kernels") >= {"CPU", "Ascend", "device_target"}
    for module, names in asked.items():
        assert names <= ({"CPU"} if module in CPU_ONLY else set()), module


def test_only_kernels_name_their_lowerings():
    """No other file tells "cpu" from "ascend", but for the warning about one of them and what it
    takes of memory."""
    for module in MODULES:
        used = {s for s in strings(syntax(module)) if s in ("cpu", "ascend", "reference")}
        assert module == "kernels" or used <= (
            {"cpu"} if module in ("model", "memory") else set()
        ), module


# ---- the parameter listing -----------------------------------------------------------------------


def listing():
    """The shipped model's leaves, one on a line, from its configs alone."""
    configs = M.read_configs(M.ORCHARD)
    lines = [
        f"{component} {path} {list(leaf.shape)}"
        for component in M.COMPONENTS
        for path, leaf in P.flatten(configs.specs(component)).items()
    ]
    return "\n".join([FIRST_LINE, *lines]) + "\n"


def test_param_format_is_true():
    assert (
        LISTING.read_text(encoding="utf-8") == listing()
    ), "run python -m tests.test_layout and look at the difference"


def test_param_format_is_what_the_files_hold():
    held = set()
    for component, (_, _, base, _) in M.COMPONENTS.items():
        for file in M.weight_files(M.ORCHARD / component, base):
            held |= {
                f"{component} {P.canonical(name)} {list(shape)}"
                for name, shape, *_ in P._headers(file)
            }
    assert held == set(LISTING.read_text(encoding="utf-8").splitlines()[1:])


# ---- files ---------------------------------------------------------------------------------------

TOP = {
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "paper_notes.md",
    "diffedit_core",
    "weights_convert",
    "tests",
    "benchmarks",
    ".ci",
    ".gitignore",
    ".gitattributes",
}


def top_level():
    """Tracked names at the top of the repository; of an unpacked source archive, all that it
    holds."""
    try:
        run = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        generated = re.compile(
            r"^\.git$|cache|\.egg-info$|\.hypothesis|^(build|dist|rank_0|kernel_meta)$"
        )
        return {p.name for p in ROOT.iterdir() if not generated.search(p.name)}
    return {line.split("/")[0].strip('"') for line in run.stdout.splitlines()}


def test_top_level():
    assert top_level() <= TOP


def test_the_converter_is_packaged():
    config = configparser.ConfigParser()
    if not config.read(ROOT / "setup.cfg", encoding="utf-8"):
        pytest.skip("no setup.cfg beside the tests: an installed package")
    patterns = config["options.package_data"]["weights_convert"].split()
    files = [p.name for p in CONVERTER.iterdir() if p.is_file() and p.suffix != ".py"]
    assert files and all(any(matches(file, pattern) for pattern in patterns) for file in files)
    assert "weights_convert" in config["options"]["packages"].split()
    assert (
        "weights_convert = weights_convert.cli:main"
        in config["options.entry_points"]["console_scripts"]
    )


def test_every_asset_is_packaged():
    config = configparser.ConfigParser()
    if not config.read(ROOT / "setup.cfg", encoding="utf-8"):
        pytest.skip("no setup.cfg beside the tests: an installed package")
    patterns = config["options.package_data"]["diffedit_core"].split()
    files = [p.relative_to(CORE).as_posix() for p in (CORE / "assets").rglob("*") if p.is_file()]
    assert len(files) > 5
    for file in files:
        assert any(matches(file, pattern) for pattern in patterns), file


def matches(file, pattern):
    """As setuptools reads a pattern: * stays within a folder, ** is any number of folders."""
    parts = [
        "(?:[^/]+/)*" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") + "/"
        for part in pattern.split("/")
    ]
    return re.fullmatch("".join(parts).removesuffix("/"), file) is not None


@pytest.mark.parametrize(
    "file, pattern, expected",
    [
        ("assets/a.png", "assets/*.png", True),
        ("assets/b/a.png", "assets/*.png", False),
        ("assets/apng", "assets/*.png", False),
        ("assets/b/c/a.png", "assets/**/*.png", True),
        ("assets/a.png", "assets/**/*.png", True),
        ("assets/b/a.png", "assets/*/*", True),
        ("assets/a.json", "assets/*.png", False),
    ],
)
def test_matches(file, pattern, expected):
    assert matches(file, pattern) == expected


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(fault):
    """Its text is in its file, once, so that `python -m tests.mutations` can run."""
    text = mutations.source(fault.module)
    assert mutations.planted(fault, text) != text


if __name__ == "__main__":
    LISTING.write_text(listing(), encoding="utf-8")
