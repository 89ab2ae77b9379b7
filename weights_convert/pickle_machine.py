"""A pickle read as data: what it would build, without building it.

A pickle is a program. `pickletools` splits it into operations without executing any, and the
machine below follows each of them on a stack of its own. Nothing is imported or called on the
pickle's behalf, whatever it names: dictionaries, lists and numbers are built as they are, the few
calls that put a tensor together are answered with its place in the file, and everything else
becomes an `Inert`, which has a name and what the pickle gave it, and can do nothing.
"""

import pickletools

from .inert import Inert, Name, Refused
from .tensors import Stored

ORDERED = "collections.OrderedDict"
MAPPINGS = (ORDERED, "collections.defaultdict", "builtins.dict", "__builtin__.dict")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
TENSORS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
MAKERS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")


def run(program, storage, tensor):
    """What a pickle would build.

    Args:
        program: its bytes.
        storage: called with a persistent id; returns what a tensor lies in.
        tensor: called with the arguments of a call of `TENSORS`; returns a `Stored`.
    Returns:
        (the object, [what was set on dictionaries and tensors]).
    Raises:
        Refused: the program is malformed, or one of its tensors is.
    """
    machine = _Machine(storage, tensor)
    try:
        for operation, argument, _ in pickletools.genops(program):
            if operation.name == "STOP":
                return machine.pop(1)[0], machine.set_aside
            machine.do(operation.name, argument)
    except (
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        if isinstance(error, Refused):
            raise
        told = f"{type(error).__name__}: {error}"[:200]
        raise Refused(f"its pickle is malformed ({told})") from None
    raise Refused("its pickle has no end")


class _Machine:
    """The stack, the marks on it, and the memo of a pickle."""

    def __init__(self, storage, tensor):
        self.storage, self.tensor = storage, tensor
        self.stack, self.marks, self.memo = [], [], {}
        self.set_aside = []

    def do(self, name, argument):
        """One operation."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            self.stack.append(argument)
        elif name in TUPLES:
            self.stack.append(tuple(self.pop(TUPLES[name])))
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        elif name not in IGNORED:
            raise Refused(f"its pickle has the operation {name}, which is not known")

    def pop(self, number):
        """That many items from the top, none from below the last mark."""
        place = len(self.stack) - number
        if place < (self.marks[-1] if self.marks else 0):
            raise Refused("its pickle takes more from the stack than there is")
        items, self.stack[place:] = self.stack[place:], []
        return items

    def since_mark(self):
        return self.pop(len(self.stack) - self.marks.pop())

    def mark(self, _):
        self.marks.append(len(self.stack))

    def drop(self, _):
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop(1)

    def drop_to_mark(self, _):
        self.since_mark()

    def twice(self, _):
        self.stack.append(self.stack[-1])

    def put(self, index):
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index):
        self.stack.append(self.memo[index])

    def tuple(self, _):
        self.stack.append(tuple(self.since_mark()))

    def list(self, _):
        self.stack.append(self.since_mark())

    def dict(self, _):
        self.stack.append(_filled({}, self.since_mark()))

    def set(self, _):
        self.stack.append(Inert("set", elements=self.since_mark()))

    def name(self, text):
        self.stack.append(Name(text.replace(" ", ".")))

    def stack_name(self, _):
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("its pickle has a name that is no text")
        self.stack.append(Name(f"{module}.{name}"))

    def extension(self, code):
        self.stack.append(Name(f"extension code {code}"))

    def text_storage(self, identity):
        self.stack.append(self.storage(identity))

    def stack_storage(self, _):
        self.stack.append(self.storage(self.pop(1)[0]))

    def call(self, _):
        self.stack.append(self.answer(*self.pop(2)))

    def call_with_names(self, _):
        function, arguments, names = self.pop(3)
        made = self.answer(function, arguments)
        _give(made, "states", [names])
        self.stack.append(made)

    def instance(self, text):
        arguments = self.since_mark()
        self.stack.append(self.answer(Name(text.replace(" ", ".")), tuple(arguments)))

    def object(self, _):
        function, *arguments = self.since_mark()
        self.stack.append(self.answer(function, tuple(arguments)))

    def append(self, _):
        items = self.pop(1)
        _extend(self.stack[-1], items)

    def appends(self, _):
        items = self.since_mark()
        _extend(self.stack[-1], items)

    def set_item(self, _):
        items = self.pop(2)
        _filled(self.stack[-1], items)

    def set_items(self, _):
        items = self.since_mark()
        _filled(self.stack[-1], items)

    def build(self, _):
        (state,) = self.pop(1)
        if isinstance(self.stack[-1], (dict, Stored)):
            self.set_aside.append(state)  # torch sets `_metadata` on an OrderedDict
        else:
            _give(self.stack[-1], "states", [state])

    def answer(self, function, arguments):
        """What stands for the result of a call. Nothing is called."""
        if not isinstance(function, (Name, Inert)) or not isinstance(arguments, tuple):
            raise Refused("its pickle calls something that is no name")
        if isinstance(function, Inert):
            return Inert(function.name, (function, *arguments))
        name = function.text
        if name in TENSORS:
            return self.tensor(*arguments)
        if name in PARAMETERS and arguments and isinstance(arguments[0], Stored):
            self.set_aside.extend(arguments[1:])
            return arguments[0]
        if name == SUBCLASS and len(arguments) == 4 and arguments[0] in map(Name, TENSORS):
            self.set_aside.append(arguments[3])
            return self.answer(arguments[0], arguments[2])
        if name in MAPPINGS and (pairs := _pairs(name, arguments)) is not None:
            return _filled({}, pairs)
        if name in MAKERS and arguments and isinstance(arguments[0], Name):
            return Inert(arguments[0].text, arguments[1:])
        return Inert(name, arguments)


def _pairs(name, arguments):
    """[key, value, key, value, ...] with which a mapping is made, or None for another call."""
    if not arguments or name == "collections.defaultdict" and len(arguments) == 1:
        return []
    pairs = arguments[0]
    if len(arguments) == 1 and isinstance(pairs, (list, tuple)):
        if all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            return [part for pair in pairs for part in pair]
    return None


def _filled(mapping, items):
    """The mapping with (key, value, key, value, ...) put into it."""
    if len(items) % 2:
        raise Refused("its pickle has a key without a value")
    pairs = list(zip(items[::2], items[1::2]))
    if not isinstance(mapping, dict):
        _give(mapping, "items", pairs)
        return mapping
    for key, value in pairs:
        # a tuple is not hashed, for it may be nested without end
        key = key if isinstance(key, KEYS) else Inert(type(key).__name__, (key,))
        if key in mapping:
            shown = repr(key[:200]) if isinstance(key, str) else f"the key {type(key).__name__}"
            raise Refused(f"its pickle gives {shown} twice")
        mapping[key] = value
    return mapping


def _extend(sequence, items):
    if isinstance(sequence, list):
        sequence.extend(items)
    else:
        _give(sequence, "elements", items)


def _give(inert, where, values):
    if not isinstance(inert, Inert):
        raise Refused(f"its pickle fills something that cannot be filled ({type(inert).__name__})")
    getattr(inert, where).extend(values)


KEYS = (str, int, float, bytes, type(None), Name)
CONSTANTS = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Inert("set"),
    "NEXT_BUFFER": lambda: Inert("buffer of another file"),
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
ARGUMENTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8".split()
)
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = ("PROTO", "FRAME", "READONLY_BUFFER")
OPERATIONS = {
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.twice,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple,
    "LIST": _Machine.list,
    "DICT": _Machine.dict,
    "FROZENSET": _Machine.set,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "PERSID": _Machine.text_storage,
    "BINPERSID": _Machine.stack_storage,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "INST": _Machine.instance,
    "OBJ": _Machine.object,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
}
