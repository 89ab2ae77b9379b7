"""Pickles read as data: plain objects come out as they are, objects of other programs as inert
placeholders with their paths, and whatever a pickle names, nothing is imported or called."""

import copyreg
import importlib
import io
import json
import pickle
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffedit_core.errors import InputError
from tests.test_config import refused
from tests.test_convert import FIXTURES, config_folder, converted, equal, tiny_weights
from tests.test_convert import quick  # noqa: F401 (fixture)
from tests.test_convert_files import write_zip
from weights_convert import convert, inspect
from weights_convert.inert import Inert, Refused
from weights_convert.pickle_machine import TENSORS, run
from weights_convert.sources import open_file
from weights_convert.tensors import is_finite, load, read, widen
from weights_convert.unpickled import contents

# ---- nothing is run ------------------------------------------------------------------------------

PAYLOAD = """
from pathlib import Path
def mark(*_):
    Path(__file__).with_suffix(".trace").write_text("run")
    return Strike.__new__(Strike)
class Strike:
    def __new__(cls, *_, **__):
        self = super().__new__(cls)
        return self
    def __setstate__(self, _): mark()
    def __setitem__(self, *_): mark()
    def __hash__(self): mark(); return 1
    def append(self, _): mark()
    def extend(self, _): mark()
    def add(self, _): mark()
    def __init__(self, *_, **__): mark()
class New(Strike):
    def __new__(cls, *_, **__):
        mark()
        return Strike.__new__(cls)
"""
FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "marshal.", "ctypes.")
FORBIDDEN += ("socket.", "shutil.", "code.", "function.", "tempfile.")
EVENTS = None  # a list while a pickle is read


def audited(event, arguments):
    """Python tells what it does: kept while `EVENTS` is a list."""
    if EVENTS is not None and (event.startswith(FORBIDDEN) or event == "open"):
        EVENTS.append((event, str(arguments)[:200]))


sys.addaudithook(audited)


def watched(call):
    """(what a call returns or None if it raises Refused, what Python did meanwhile)."""
    global EVENTS
    EVENTS = found = []
    try:
        return call(), found
    except Refused:
        return None, found
    finally:
        EVENTS = None


def machine(program):
    return run(program, lambda identity: Inert("storage", (identity,)), lambda *_: Inert("tensor"))


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    """(name of a module, the file that comes into being when any of it is run); it is imported only
    by `pickle` itself."""
    place = tmp_path_factory.mktemp("payload")
    (place / "struck_payload.py").write_text(PAYLOAD)
    sys.path.insert(0, str(place))
    code = 0x6D2A
    for number in (0x6D, code, code << 16):
        copyreg.add_extension("struck_payload", f"mark{number}", number)
    yield "struck_payload", place / "struck_payload.trace"
    for number in (0x6D, code, code << 16):
        copyreg.remove_extension("struck_payload", f"mark{number}", number)
    sys.path.remove(str(place))


def called(name):
    return b"cstruck_payload\n" + name + b"\n"


MADE = called(b"Strike") + b")\x81"  # an object, for the operations that work on one
WAYS = {  # operation -> a program that runs something when Python loads it
    "GLOBAL": called(b"mark") + b".",
    "STACK_GLOBAL": b"\x80\x04\x8c\x0estruck_payload\x8c\x04mark\x93.",
    "REDUCE": called(b"mark") + b"(VX\ntR.",
    "INST": b"(VX\nistruck_payload\nmark\n.",
    "OBJ": b"(" + called(b"mark") + b"VX\no.",
    "NEWOBJ": b"\x80\x02" + called(b"New") + b")\x81.",
    "NEWOBJ_EX": b"\x80\x04" + called(b"New") + b")}\x92.",
    "BUILD": MADE + b"Nb.",
    "EXT1": b"\x80\x02\x82\x6d.",
    "EXT2": b"\x80\x02\x83\x2a\x6d.",
    "EXT4": b"\x80\x02\x84\x00\x00\x2a\x6d.",
    "PERSID": b"Pstruck_payload.mark\n.",
    "BINPERSID": b"VX\nQ.",
    "APPEND": MADE + b"K\x01a.",
    "APPENDS": MADE + b"(K\x01K\x02e.",
    "SETITEM": MADE + b"K\x01K\x02s.",
    "SETITEMS": MADE + b"(K\x01K\x02u.",
    "ADDITEMS": b"\x80\x04" + MADE + b"(K\x01\x90.",
    "DICT": b"(" + MADE + b"K\x01d.",
    "FROZENSET": b"\x80\x04(" + MADE + b"\x91.",
    "dictionary's key": b"}" + MADE + b"K\x01s.",
    "a state": b"ccollections\nOrderedDict\n)R" + MADE + b"Nbb.",
    "a nested name": b"\x80\x04\x8c\x0estruck_payload\x8c\x0fStrike.__init__\x93VX\n\x85R.",
    "getattr": b"cbuiltins\ngetattr\n(" + called(b"mark") + b"V__call__\ntR)R.",
    "import": b"cbuiltins\n__import__\n(Vstruck_payload\ntR.",
    "eval": b"cbuiltins\neval\n(V__import__('struck_payload').mark()\ntR.",
}


class Loaded(pickle.Unpickler):
    def persistent_load(self, _):
        importlib.import_module("struck_payload").mark()


@pytest.mark.parametrize("way", WAYS)
def test_no_operation_runs_anything(payload, tmp_path, way):
    """Each program does run the payload when Python loads it; here none does, alone and in a file
    that is inspected and converted."""
    module, trace = payload
    sys.modules.pop(module, None)
    trace.unlink(missing_ok=True)
    try:
        Loaded(io.BytesIO(WAYS[way])).load()
    except Exception:  # after it has run, whatever it says
        pass
    assert trace.exists() or module in sys.modules, "the program is no attack"

    trace.unlink(missing_ok=True)
    sys.modules.pop(module, None)
    _, events = watched(lambda: machine(WAYS[way]))
    file = write_zip(tmp_path / "file.ckpt", WAYS[way])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: convert(file, tmp_path / "out"), file)
    assert inspect(file) and events == []
    assert module not in sys.modules and not trace.exists() and not (tmp_path / "out").exists()


FRAGMENTS = st.sampled_from(
    [program[:-1] for program in WAYS.values()]
    + [
        bytes([code])
        for code in b"(.0123)]}NRabdelost2q\x81\x85\x86\x87\x88\x89\x90\x91\x92\x93\x94"
    ]
    + [b"K\x01", b"VX\n", b"q\x01", b"h\x01", b"\x94", b"h\x00", b"\x97", b"\x98", b"\x80\x05"]
    + [b"c" + name.replace("._", "\n_", 1).encode() + b"\n" for name in TENSORS]
    + [b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"cposix\nsystem\n", b"Q"]
)


@given(st.lists(FRAGMENTS, max_size=30), st.booleans())
def test_no_mixture_of_operations_runs_anything(payload, fragments, whole):
    """Any program is read to its end or refused, with nothing done meanwhile."""
    module, trace = payload
    sys.modules.pop(module, None)
    trace.unlink(missing_ok=True)
    program = b"".join(fragments) + b"." * whole
    found, events = watched(lambda: machine(program))
    if found is not None:
        _, more = watched(lambda: contents(*found))
        events += more
    assert events == [] and module not in sys.modules and not trace.exists()


@given(st.binary(max_size=60))
def test_no_bytes_run_anything(program):
    assert watched(lambda: machine(program))[1] == []


def test_a_nest_of_objects_neither_overflows_nor_takes_long():
    """Tuples in tuples, an object in itself, and lists that name each other twice a level."""
    deep = b"\x80\x02)" + b"\x85" * 100_000 + b"."
    with pytest.raises(Refused, match="nested"):
        contents(*machine(deep))
    key = machine(b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.")[0]
    assert [type(k) for k in key] == [Inert]
    wide = b"\x80\x02]q\x00" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
    )
    assert contents(*machine(wide + b".")).tensors == []
    assert contents(*machine(b"\x80\x02]q\x00h\x00a.")).objects == {}
    assert contents(*machine(b"\x80\x02cx\ny\n)Rq\x00h\x00b.")).objects == {"content": "x.y"}


# ---- what comes out ------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=9)
)
keys = st.one_of(st.none(), st.integers(), st.text(max_size=9))
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner),
        st.lists(inner, max_size=5).map(tuple),
    ),
    max_leaves=12,
)


@given(plain, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_objects_come_out_as_they_are(value, protocol):
    """The law: without names, reading as data is loading."""
    found, set_aside = machine(pickle.dumps(value, protocol))
    assert found == value and set_aside == []


names = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8}){0,2}", fullmatch=True)


@given(names, names)
def test_any_name_is_only_a_name(module, name):
    program = b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + b"s."
    found = contents(*machine(program))
    assert found.objects == {"a": f"{module}.{name}"} and found.tensors == []


class Holder:
    """A class of another program."""

    def __init__(self, **state):
        self.__dict__.update(state)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_named_with_their_paths(protocol):
    content = {"a": [1, Holder(x={2})], "state_dict": {"w": Holder()}, "n": np.float32(3)}
    found = contents(*machine(pickle.dumps(content, protocol)))
    own = f"{__name__}.Holder"
    assert found.objects["a.1"] == own and found.objects["state_dict.w"] == own
    assert any(path.startswith("a.1.") and "set" in o for path, o in found.objects.items())
    assert any("numpy" in name and path.startswith("n") for path, name in found.objects.items())


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02}(.",
        b"\x80\x02h\x07.",
        b"\x80\x02\x85.",
        b"\x80\x02]}s.",
        b"\x80\x02}K\x01s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01)\x81.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x01K\x01K\x01tR.",
        b"\x80\x02(X\x07\x00\x00\x00storageK\x01tQ.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFooStorage\nX\x01\x00\x00\x000NK\x01tQ.",
        b"\x80\x02K\x01Nb.",
        b"\x80\x02\x8a\xff.",
        b"\x80\x02\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x02}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x02s.",
        b"\x80\x04\x8c\x01aK\x01\x93.",
    ],
)
def test_a_malformed_pickle_is_refused(tmp_path, program):
    file = write_zip(tmp_path / "file.bin", program)
    refused(lambda: open_file(file), file)


def test_numbers_of_any_size_can_be_described(tmp_path):
    """Python refuses to print thousands of digits; a message must not."""
    program = pickle.dumps({"n": 10**9000, 10**9000: Holder()}, 2)
    assert any("n = " in line for line in inspect(write_zip(tmp_path / "a.bin", program)))


# ---- trainers' files -----------------------------------------------------------------------------

CHECKPOINT = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(record, messages, folder) of the conversion of a training state."""
    place = tmp_path_factory.mktemp("trained")
    config = config_folder(place / "config", "sd1")
    with pytest.warns(UserWarning) as told, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        found = converted(FIXTURES / "sd1.ckpt", place / "out", config=config)
    assert equal(found, tiny_weights("sd1"))
    record = json.loads((place / "out" / "conversion.json").read_text())
    return record, [str(each.message) for each in told], config


def test_a_training_state_is_converted(trained):
    """Its objects are in the record with their paths, its tensors beside the weights are counted
    under the rule that takes them."""
    record, told, _ = trained
    assert record["objects"]["callbacks." + CHECKPOINT] == CHECKPOINT
    assert record["objects"]["hyper_parameters"] == "omegaconf.dictconfig.DictConfig"
    assert record["objects"]["lr_schedulers.0.lr_lambdas.0"].endswith("LambdaLinearScheduler")
    names = set(record["objects"].values())
    assert {"argparse.Namespace", "torch.device", "torch.Size", "collections.Counter"} <= names
    assert {"numpy.dtype", "numpy.ndarray", "torch.float16", "omegaconf.nodes.AnyNode"} <= names
    assert record["dropped"]["the state of the trainer's callbacks"] == 2
    assert record["dropped"]["the optimiser's state"] == 1
    number = len(record["objects"])
    assert any(f"objects of other programs ({number})" in text for text in told)


def retrained(place, change):
    """The training state with `change(pickle's bytes)` in place of its pickle."""
    with zipfile.ZipFile(FIXTURES / "sd1.ckpt") as old, zipfile.ZipFile(place, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(
                info.filename, change(data) if info.filename.endswith("data.pkl") else data
            )
    return place


def test_a_tensor_below_an_object_is_refused(trained, tmp_path):
    """Unless a rule takes it, or --drop."""
    _, _, config = trained

    def elsewhere(data):  # the callbacks under another name of the same length
        return data.replace(b"\x09\0\0\0callbacks", b"\x09\0\0\0weightier")

    file = retrained(tmp_path / "file.ckpt", elsewhere)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"'weightier.{CHECKPOINT}.best_model_score'"
        refused(lambda: convert(file, tmp_path / "out", config=config), "unknown", path, "--drop")
        record = convert(file, tmp_path / "out", config=config, drop=["weightier.*"])
    assert record["dropped"]["--drop weightier.*"] == 2


def test_a_storage_without_a_tensor_is_not_lost(tmp_path):
    """Such as a quantised tensor's, which is made by a call that is not known."""
    pid = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x02tQ"
    program = b"\x80\x02}X\x01\x00\x00\x00acx\ny\n" + pid + b"\x85Rs."
    found = open_file(write_zip(tmp_path / "a.bin", program, [("0", struct.pack("<2f", 1, 2))]))
    ((path, stored),) = found.beside
    assert path == "a.0" and load(stored).tolist() == [1, 2] and found.objects == {"a": "x.y"}


def test_what_is_set_on_a_dictionary_is_not_lost(tmp_path):
    """A tensor as the state of an OrderedDict."""
    pid = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x02tQ"
    program = b"\x80\x02ccollections\nOrderedDict\n)R" + pid + b"b."
    found = open_file(write_zip(tmp_path / "a.bin", program, [("0", bytes(8))]))
    assert [path for path, _ in found.beside] == ["attributes.0"]


def test_a_whole_object_is_no_model(tmp_path):
    file = write_zip(tmp_path / "a.ckpt", pickle.dumps(Holder(x=1), 2))
    refused(lambda: convert(file, tmp_path / "out"), "Holder", "not loaded", "state_dict()")


# ---- numbers of eight bits -----------------------------------------------------------------------


@pytest.mark.parametrize("name, dtype", [("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2")])
def test_every_number_of_eight_bits_is_torchs(name, dtype):
    """All 256 patterns, NaN and infinity too, as torch writes and widens them."""
    tensors = dict(open_file(FIXTURES / "eight_bits.pt").tensors)
    assert tensors[name].dtype == dtype
    raw, wanted = read(tensors[name]), load(tensors[f"{name} wide"])
    found = widen(raw, dtype)
    assert found.dtype == np.float16 and np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(wanted))
    for bits in raw:
        one = np.array([bits], np.uint8)
        assert is_finite(one, dtype) == bool(np.isfinite(widen(one, dtype)).all())


# ---- places of tensors ---------------------------------------------------------------------------


def number(n):
    return b"J" + struct.pack("<i", n)


def tuple_of(*numbers):
    return b"(" + b"".join(map(number, numbers)) + b"t"


def tensor_file(place, first, shape, strides, numbers=6):
    """A file with one tensor "a", as torch describes it, in a storage of 6 numbers in float32."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000N" + number(numbers) + b"tQ"
    parts = storage + number(first) + tuple_of(*shape) + tuple_of(*strides)
    program = b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + parts + b"tRs."
    return write_zip(place, program, [("0", np.arange(6, dtype="<f4").tobytes())])


@given(st.integers(0, 7), st.lists(st.integers(0, 4), max_size=3), st.data())
def test_a_tensor_is_where_numpy_sees_it_or_refused(tmp_path_factory, first, shape, data):
    """Any place, shape and strides: the numbers that numpy finds there, if all of them are in the
    storage; never others."""
    strides = data.draw(st.lists(st.integers(0, 4), min_size=len(shape), max_size=len(shape)))
    place = tmp_path_factory.getbasetemp() / "tensor.pt"
    place.unlink(missing_ok=True)
    file = tensor_file(place, first, shape, strides)
    offsets = [sum(i * s for i, s in zip(index, strides)) for index in np.ndindex(*shape)]
    inside = all(first + offset < 6 for offset in offsets) and first <= 6
    try:
        ((_, found),) = open_file(file).tensors
    except InputError as error:
        assert not inside or "gaps or repetitions" in str(error)
        return
    assert inside and found.shape == tuple(shape)
    assert load(found).reshape(-1).tolist() == [first + offset for offset in offsets]


@pytest.mark.parametrize(
    "first, shape, strides, numbers, words",
    [
        (0, (7,), (1,), 6, "beyond its storage"),
        (6, (1,), (1,), 6, "beyond its storage"),
        (0, (2, 3), (1,), 6, "impossible shape"),
        (-1, (2,), (1,), 6, "impossible shape"),
        (0, (-2,), (1,), 6, "impossible shape"),
        (0, (3,), (-1,), 6, "impossible shape"),
        (0, (2, 3), (0, 1), 6, "gaps or repetitions"),
        (0, (6,), (1,), 5, "another size"),
        (0, (6,), (1,), 7, "another size"),
    ],
)
def test_a_tensor_in_no_place_is_refused(tmp_path, first, shape, strides, numbers, words):
    file = tensor_file(tmp_path / "a.pt", first, shape, strides, numbers)
    refused(lambda: open_file(file), file, words)
