"""What makes two values, two functions, two programs, or two models the same: digests.

A function is its compiled code, its defaults, what its closure holds, and, of its own module, the
functions and values that it names there. So a lambda is as good as a function with a name; nothing
is ever pickled. A changed comment changes no digest. Compiled code differs between versions of
Python, the syntax of a program does not: rows of experiments that have functions of their own merge
between equal versions only.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np

from diffedit_core.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("diffedit_core", "benchmarks")  # their sources are part of `code`


def digest(*values):
    """sha256 of anything that `identity` knows, in hexadecimal."""
    text = json.dumps([identity(value) for value in values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(value, within=()):
    """A value as nested lists of strings, equal for equal values only.

    Args:
        within: the functions around it, so that one that names itself comes to an end.
    Raises:
        InputError: it has no identity, such as an open file, or an object that hides what it is.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.generic):
        return identity(value.item())
    if isinstance(value, dict):
        pairs = [[identity(k, within), identity(v, within)] for k, v in value.items()]
        return ["dict", sorted(pairs, key=json.dumps)]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted((identity(v, within) for v in value), key=json.dumps)]
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *(identity(v, within) for v in value)]
    if isinstance(value, types.FunctionType):
        return _function(value, within)
    return _other(value, within)


def _other(value, within):
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return ["partial", *(identity(v, within) for v in parts)]
    if isinstance(value, types.MethodType):
        return ["method", identity(value.__func__, within), identity(value.__self__, within)]
    if isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
        return ["builtin", getattr(value, "__module__", None) or "", value.__name__]
    if isinstance(value, type):
        return ["class", value.__module__, value.__qualname__]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.CodeType):
        return _code(value)
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return [type(value).__qualname__, identity(fields, within)]
    if isinstance(value, Path):
        return ["path", str(value)]
    array = value.asnumpy() if hasattr(value, "asnumpy") else value
    if isinstance(array, np.ndarray) and array.dtype != object:
        content = np.ascontiguousarray(array)
        return ["array", str(array.dtype), list(array.shape), _sha(content.tobytes())]
    raise InputError(
        f"{value!r} has no identity that a cache could know it by: "
        "use a function, a lambda or functools.partial of numbers, texts and arrays instead."
    )


def _sha(content):
    return hashlib.sha256(content).hexdigest()


def _code(code, documentation=None):
    constants = list(code.co_consts)
    if documentation is not None and constants[:1] == [documentation]:
        constants = constants[1:]
    return ["code", _sha(code.co_code), [_constant(c) for c in constants], list(code.co_names)]


def _constant(value):
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, (tuple, frozenset)):
        found = [_constant(v) for v in value]
        return found if isinstance(value, tuple) else sorted(found, key=json.dumps)
    return [type(value).__name__, repr(value)]


def _names(code):
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return sorted(found)


def _function(function, within):
    """Its name, code, defaults and closure; of an experiment's function what it names, too."""
    if any(function is f for f in within):
        return ["itself", function.__qualname__]
    inside = (*within, function)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [function.__defaults__, function.__kwdefaults__, cells]
    parts = [function.__module__, function.__qualname__]
    parts.append(_code(function.__code__, function.__doc__))
    parts += [identity(value, inside) for value in held]
    if not _is_own(function.__module__):
        return ["function", *parts]
    named = {n: function.__globals__[n] for n in _names(function.__code__)
             if n in function.__globals__}  # fmt: skip
    return ["function", *parts, [[n, _named(v, inside)] for n, v in named.items()]]


def _is_own(module):
    """Whether a module is an experiment's: neither of the packages, of which `code` knows all, nor
    installed."""
    if module is None or module.split(".")[0] in PACKAGES:
        return (module or "").startswith("benchmarks.ablations")
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and "site-packages" not in file and sys.base_prefix not in file


def _named(value, within):
    """What a global name stands for: what is not the experiment's own, by its name."""
    if isinstance(value, (types.ModuleType, type)):
        return identity(value)
    if isinstance(value, types.FunctionType) and not _is_own(value.__module__):
        return ["function", value.__module__, value.__qualname__]
    if callable(value) and not isinstance(value, (types.FunctionType, functools.partial)):
        return [type(value).__qualname__, getattr(value, "__name__", "")]
    return identity(value, within)


# --- programs and models --------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def code(*modules, without=()):
    """The digest of modules and of all that they import of our packages: their syntax without
    comments and documentation.

    Args:
        modules: such as "diffedit_core.edit".
        without: modules that change no result.
    """
    files, waiting = dict.fromkeys(without), list(modules)
    while waiting:
        module = waiting.pop()
        file = _file(module)
        if module not in files and file is not None:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            waiting += _imports(tree, module, file)
            files[module] = _syntax(_bare(tree))
    return digest(files)[:12]


def _syntax(node):
    """A tree as lists, without empty fields: newer versions of Python add such, for syntax that a
    program does not use."""
    if isinstance(node, list):
        return [_syntax(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
    if isinstance(node, ast.Constant):
        fields = [("value", node.value)]
    return [type(node).__name__, *([name, _syntax(value)] for name, value in fields)]


def _file(module):
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.split(".")[0] in PACKAGES and file.is_file():
            return file
    return None


def _imports(tree, module, file):
    """Names of modules, and of what might be one."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _bare(tree):
    """The same tree without documentation."""
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def model_digest(found, dtype="fp32"):
    """The digest of a model: its configurations, words, weights and precision.

    Args: found: `folder.Found`.
    """
    total = hashlib.sha256(f"{found.configs!r} {dtype}".encode())
    words = sorted(p for p in (found.path / "tokenizer").iterdir() if p.is_file())
    for file in [*words, *(file for files in found.files.values() for file in files)]:
        total.update(_file_digest(file).encode())
    return total.hexdigest()[:12]


def _file_digest(path):
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(functools.partial(stream.read, 1 << 20), b""):
            total.update(block)
    return total.hexdigest()
