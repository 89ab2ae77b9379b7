"""The engine of ablations: what is kept changes nothing, a plan is what is counted, and nothing
that dies or fails loses a row. The model is a closed form."""

import base64
import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ablation import Experiment, cache as caches, cli, editing, engine, plan, rows, work
from benchmarks.ablation.subjects import Batch, Subject
from diffedit_core.errors import InputError
from diffedit_core.integrators import Note, State
from diffedit_core.parts import compute, everywhere, noised

from .closed_forms import FakeModel, wavy_on_the_object

ROOT = Path(__file__).parent.parent
SHORT = {"num_inference_steps": 6, "num_maps": 3, "mask_noise_strength": 0.75}
TRUTHLESS = ("area", "change", "outside psnr")


def subject(i, seed=0):
    source = np.random.default_rng(i).uniform(-1, 1, (3, 12, 16)).astype(np.float32)
    return Subject(f"scene-{i}", "fruit", 100 * seed + i, source, "source", "ab"[i % 2])


def batches(split, scenes, seeds, size=3):
    wanted = [(i, seed) for seed in seeds for i in range(scenes)]
    for start in range(0, len(wanted), size):
        some = wanted[start : start + size]
        names = tuple((f"scene-{i}", seed) for i, seed in some)
        yield Batch(names, lambda some=some: [subject(*each) for each in some])


def bench(load=None):
    def model():
        return FakeModel(wavy_on_the_object)

    return engine.Bench(model().configs, "fake", 16, load or model, batches)


def experiment(name="toy", scenes=4, measures=TRUTHLESS, base=None, **more):
    return Experiment(name, "Does it?", scenes=scenes, measures=measures,
                      base={**SHORT, **(base or {})}, **more)  # fmt: skip


def ran(one, folder, **more):
    """(rows without their seconds {id: row}, evaluations computed, the plan before)."""
    job = engine.lay_out(one, bench(), folder)
    before = job.plan
    elsewhere, computed = engine.run(job, **more)
    assert elsewhere == 0
    return rows_of(job.folder), computed, before


def rows_of(folder):
    lines = [line for line in rows.read(folder) if line["kind"] == "row"]
    return {line["id"]: {k: v for k, v in line.items() if k not in ("seconds", "run")}
            for line in lines}  # fmt: skip


# --- what is kept ---------------------------------------------------------------------------------

CHOICES = {
    "encode_ratio": (0.5, 0.8),
    "num_maps": (2, 3),
    "mask_threshold": (0.3, 0.5),
    "guidance_scale": (1.0, 3.0),
    "decode_window": (None, 0, 1),
    "integrator": ("ddim", "dpmpp_2m", "edict", "belm"),
    "recipe": ("paper", "smooth", "diffusers"),
    "background": ("decoded", "restored"),
    "trail": (None, noised),
    "to_mask": (None, everywhere, lambda noise_map: noise_map / noise_map.max()),
    "source": ("source", ""),
    "negative": ("", "negative"),
    "mask": (None, lambda subject, size: np.eye(*size)),
}
CHANGES = st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in CHOICES.items()})


def variants(several):
    return experiment(rows={str(i): changes for i, changes in enumerate(several)}).variants


def outcome(variant, model, keep):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return editing.run(variant, [subject(i) for i in range(3)], model, keep)


def same(one, other):
    pairs = zip((one.images, one.masks, one.noise_maps), (other.images, other.masks, other[2]))
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)


@settings(max_examples=6)
@given(st.lists(CHANGES, min_size=2, max_size=3), st.sampled_from((1 << 30, 20_000, 0)))
def test_a_cache_changes_no_bit(tmp_path_factory, several, memory):
    """In memory that is large, too small, or none; on the disk, and read back by another."""
    folder = tmp_path_factory.mktemp("cache")
    model = editing.Counted(FakeModel(wavy_on_the_object))
    found = [caches.Cache(memory, folder), caches.Cache(memory, folder), caches.Cache(memory)]
    for variant in variants(several):
        wanted = outcome(variant, model, compute)
        for cache in found:
            keep = cache.keep("context", lambda: model.evaluations, caches.Tally())
            assert same(outcome(variant, model, keep), wanted)
        assert all(cache.bytes <= memory or len(cache.entries) == 1 for cache in found)


def test_seconds_are_without_those_of_compiling(monkeypatch):
    """By a clock of its own, on which a prediction takes a second and a compilation a hundred."""
    now = [0.0]
    monkeypatch.setattr(editing.time, "perf_counter", lambda: now[0])

    class Compiling(FakeModel):
        def predict(self, x, timestep, states):
            if len(self.calls) % 3 == 0:
                self.on_compile("compiling unet")
                now[0] += 100
                self.on_compile("")
            now[0] += 1
            return super().predict(x, timestep, states)

    model, tally = editing.Counted(Compiling(wavy_on_the_object)), caches.Tally()
    keep = caches.Cache().keep("c", lambda: model.evaluations, tally, model.clock)
    outcome(variants([{}])[0], model, keep)
    assert tally.seconds == len(model.calls) > 3 and now[0] > 100 + tally.seconds


def test_another_context_is_another_value():
    cache, model = caches.Cache(), editing.Counted(FakeModel(wavy_on_the_object))
    (variant,) = variants([{}])[:1]
    for context, fresh in (("one", True), ("two", True), ("one", False)):
        tally = caches.Tally()
        outcome(variant, model, cache.keep(context, lambda: model.evaluations, tally))
        assert tally.evaluations > 0 and tally.computed == fresh * tally.evaluations


VALUE = caches.Entry(
    [State(ms.Tensor(np.eye(3, 5, dtype=np.float32)), None, (2, ms.Tensor(np.ones(2))),
           Note(3, 1e-3, 0.5, True)), (np.arange(4), "text", 1.5, None)],
    0.25,
    12,
)  # fmt: skip


def leaves(value):
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(leaves, value)]
    array = value.asnumpy() if isinstance(value, ms.Tensor) else value
    if isinstance(array, np.ndarray):
        return [type(value).__name__, str(array.dtype), array.shape, array.tobytes()]
    return value


@given(st.data())
def test_a_file_that_was_cut_off_or_changed_is_not_read(tmp_path_factory, data):
    """Or it gives the same value: some bytes of the format mean nothing."""
    path, content = tmp_path_factory.mktemp("file") / "x.safetensors", caches.packed(VALUE)
    path.write_bytes(content)
    assert leaves(caches.read(path)) == leaves(VALUE)
    place = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:place])
    assert caches.read(path) is None
    flipped = bytearray(content)
    flipped[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(flipped)
    found = caches.read(path)
    assert found is None or leaves(found) == leaves(VALUE)


@given(st.lists(st.integers(0, 3), max_size=25))
def test_a_file_gives_back_its_value_however_many_arrays_it_has(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    value = tuple(np.full(size, i) for i, size in enumerate(sizes))
    path.write_bytes(caches.packed(caches.Entry(value, 0.5, 7)))
    found = caches.read(path)
    assert leaves(found.value) == leaves(value) and found[1:] == (0.5, 7)


def test_a_damaged_file_is_made_again(tmp_path):
    model, (variant,) = editing.Counted(FakeModel(wavy_on_the_object)), variants([{}])[:1]

    def computed():
        tally, cache = caches.Tally(), caches.Cache(folder=tmp_path)
        outcome(variant, model, cache.keep("c", lambda: model.evaluations, tally))
        return tally.computed

    whole = computed()
    assert whole > 0 and computed() == 0
    file = max(tmp_path.iterdir(), key=lambda p: p.stat().st_size)
    there = leaves(caches.read(file).value)
    file.write_bytes(file.read_bytes()[:-1])
    assert caches.read(file) is None
    assert 0 < computed() < whole and computed() == 0
    assert leaves(caches.read(file).value) == there


def test_the_memory_is_bounded_and_what_was_not_used_for_longest_goes_first():
    cache = caches.Cache(memory=3 * 8 * 5)
    for name in "abc":
        cache.put(name, "mask", caches.Entry(np.full(5, ord(name), np.float64), 0, 0))
    assert cache.get("a", "mask").value[0] == ord("a")
    cache.put("d", "mask", caches.Entry(np.zeros(5), 0, 0))
    assert [name for name in "abcd" if cache.get(name, "mask") is not None] == ["a", "c", "d"]
    assert cache.bytes == 3 * 8 * 5


def test_the_folder_is_bounded_and_the_oldest_goes_first(tmp_path):
    size = len(caches.packed(VALUE))
    cache = caches.Cache(folder=tmp_path, disk=3 * size)
    for i in range(5):
        cache.put(f"{i}", "maps", VALUE)
        os.utime(tmp_path / f"{i}.safetensors", ns=(i, i))
    cache.put("5", "maps", VALUE)
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["3", "4", "5"]


def test_a_full_disk_ends_the_folder_and_nothing_else(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    cache = caches.Cache(folder=tmp_path, log=said.append)
    monkeypatch.setattr(caches, "written", full)
    cache.put("a", "maps", VALUE)
    cache.put("b", "maps", VALUE)
    assert len(said) == 1 and "No space left" in said[0] and cache.get("b", "maps") is VALUE


# --- plans ----------------------------------------------------------------------------------------

PLANNED = {
    "encode_ratio": (0.5, 0.8),
    "mask_threshold": (0.3, 0.5),
    "guidance_scale": (1.0, 3.0),
    "integrator": ("ddim", "edict", "belm"),
    "num_maps": (1, 2),
    "recipe": ("paper", "diffusers"),
    "trail": (None, noised),
    "source": ("source", ""),
}
AXES = st.lists(st.sampled_from(tuple(PLANNED)), min_size=1, max_size=3, unique=True)


@settings(max_examples=5)
@given(AXES, st.booleans())
def test_the_plan_is_what_is_counted(tmp_path_factory, axes, masks):
    measures = ("area",) if masks else TRUTHLESS
    one = experiment(measures=measures, vary={axis: PLANNED[axis] for axis in axes})
    found, computed, planned = ran(one, tmp_path_factory.mktemp("results"))
    assert planned.shared == planned.left == computed
    assert planned.alone == sum(row["evaluations"] for row in found.values())
    assert len(found) == planned.edits == 4 * len({v.digest for v in one.variants})


def test_a_window_asks_as_often_and_its_share_of_the_cells_is_a_number(tmp_path):
    """OBJECT has 2x3 cells of 6x8, and sides are even; the mask is the same."""
    one = experiment(vary={"decode_window": {"none": None, "0": 0, "1": 1}})
    found, computed, planned = ran(one, tmp_path)
    assert planned.shared == computed
    for margin, wanted in ((None, 1), (0, 2 * 4 / 48), (1, 4 * 6 / 48)):
        (variant,) = (v for v in one.variants if v.options.decode_window == margin)
        some = [row for row in found.values() if row["variant"] == variant.digest]
        assert len(some) == 4 and {row["window"] for row in some} == {engine.rounded(wanted)}


def test_an_iterated_inversion_takes_at_most_what_is_planned(tmp_path):
    _, computed, planned = ran(experiment(vary={"integrator": ("ddim", "anderson")}), tmp_path)
    assert planned.at_most and computed < planned.shared
    assert "at most" in "\n".join(planned.lines())


def saved(one):
    steps = plan.steps(one.variants, subject(0), bench().configs)
    alone = sum(s.evaluations for asked in steps.values() for s in asked)
    return alone / sum({s.name: s.evaluations for a in steps.values() for s in a}.values())


def test_ratios_thresholds_and_guidances_share_half_and_masks_nine_tenths():
    """Decoding cannot be shared: the deeper and the more guided, the less is saved."""
    full = {"num_inference_steps": 10, "num_maps": 2}  # as 50 and 10
    editing_them = experiment(base=full, vary={
        "encode_ratio": (0.3, 0.4, 0.5, 0.6, 0.7),
        "mask_threshold": (0.3, 0.4, 0.5, 0.6, 0.7),
        "guidance_scale": (1.0, 3.0, 7.5),
    })  # fmt: skip
    masks_only = experiment(base=full, measures=("area",), vary={
        "mask_threshold": (0.3, 0.4, 0.5, 0.6), "mask_smoothing": (0.0, 0.5, 1.0)
    })  # fmt: skip
    assert saved(editing_them) >= 2 and saved(masks_only) >= 10


def test_what_is_left_is_planned_and_a_plan_is_remembered(tmp_path, monkeypatch):
    small, large = (experiment(vary={"mask_threshold": t}) for t in ((0.3, 0.5), (0.3, 0.5, 0.6)))
    ran(small, tmp_path)
    job = engine.lay_out(large, bench(), tmp_path)
    again = job.plan
    assert again.left < again.shared
    monkeypatch.setattr(plan, "steps", None)
    assert engine.lay_out(large, bench(), tmp_path).plan == again
    with pytest.raises(TypeError):
        engine.lay_out(experiment(vary={"mask_threshold": (0.1,)}), bench(), tmp_path)


def test_groups_share_nothing_and_hold_every_variant_once():
    one = experiment(vary={"num_inference_steps": (4, 6), "source": ("source", "")})
    steps = plan.steps(one.variants, subject(0), bench().configs)
    found = plan.groups(one.variants, steps)
    names = [{s.name for v in g for s in steps[v.digest] if s.evaluations} for g in found]
    assert sorted(v.digest for g in found for v in g) == sorted({v.digest for v in one.variants})
    assert all(not a & b for i, a in enumerate(names) for b in names[:i])


# --- rows -----------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_a_larger_one_the_rest(tmp_path):
    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    first, computed, _ = ran(one, tmp_path)
    again, nothing, _ = ran(one, tmp_path)
    assert computed > 0 and nothing == 0 and again == first
    more, _, _ = ran(experiment(vary={"mask_threshold": (0.3, 0.4, 0.5)}, seeds=(0, 1)), tmp_path)
    assert {k: more[k] for k in first} == first and len(more) == 3 * 4 * 2


def test_one_row_that_was_cut_off_is_written_again_and_no_other(tmp_path):
    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    first, _, _ = ran(one, tmp_path)
    file = sorted((tmp_path / "toy").iterdir())[0]
    content = file.read_bytes()
    for cut in (1, 30, 400, len(content) - 10):
        file.write_bytes(content[:-cut])
        again, _, _ = ran(one, tmp_path)
        assert again == first
        names = [line["id"] for line in rows.lines(file) if line["kind"] == "row"]
        assert len(names) == len(set(names))


def test_two_ranks_write_the_rows_of_one_process(tmp_path):
    """Each alone with its share; with a cache of their own or a common one."""
    one = experiment(scenes=8, vary={"num_inference_steps": (4, 6), "mask_threshold": (0.3, 0.5)})
    whole, _, _ = ran(one, tmp_path / "whole")
    halves = []
    for index in ("1/2", "2/2"):
        job = engine.lay_out(one, bench(), tmp_path / "parts")
        engine.run(job, caches.Cache(folder=tmp_path / "cache"), work.Share.of(index))
        halves.append(rows_of(job.folder))
    assert 0 < len(halves[0]) < len(halves[1]) and halves[1] == whole


def test_a_changed_program_or_model_starts_rows_of_its_own(tmp_path, monkeypatch, capsys):
    from benchmarks.ablation import tables

    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    first, _, _ = ran(one, tmp_path)
    monkeypatch.setattr(engine, "program", lambda: "another")
    both, computed, _ = ran(one, tmp_path)
    assert computed > 0 and len(both) == 2 * len(first) and first.items() <= both.items()
    found = tables.results(rows.read(tmp_path / "toy"), ("another", "fake", 16))
    assert found.others == len(first) and found.run["code"] == "another"
    assert sum(map(len, found.rows.values())) == len(first)


def test_two_sizes_have_rows_and_true_features_of_their_own(tmp_path):
    """Neither counts for the other, in one folder."""
    from benchmarks.ablation import tables

    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    first, _, _ = ran(one, tmp_path)
    other = engine.lay_out(one, bench()._replace(size=32), tmp_path)
    assert other.plan.edits == len(first)
    engine.run(other)
    assert len(rows_of(other.folder)) == 2 * len(first)
    lines = rows.read(tmp_path / "toy")
    for size in (16, 32):
        features = np.full(3, float(size), "<f2")
        text = base64.b64encode(features.tobytes()).decode()
        lines.append({"kind": "truth", "scene": "s", "size": size, "features": text})
    for size in (16, 32):
        found = tables.results(lines, (engine.program(), "fake", size))
        assert found.run["size"] == size and found.others == len(first)
        assert found.truths["s"].tolist() == [size] * 3


def test_pictures_that_are_mixed_know_their_neighbours(tmp_path):
    """With the clamp over the batch a row is another one beside other pictures."""
    one = experiment(vary={"clamp_over": ("image", "batch")})
    four, _, _ = ran(one, tmp_path)
    five, _, _ = ran(experiment(scenes=5, vary={"clamp_over": ("image", "batch")}), tmp_path)
    assert len(five) == len(four) + 1 + 2  # the fifth, and the fourth and fifth side by side


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, monkeypatch, capsys):
    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    wanted, _, _ = ran(one, tmp_path / "wanted")
    real, left = os.write, [9]

    def write(descriptor, content):
        left[0] -= 1
        if left[0] < 0:
            return real(descriptor, content[:7])  # what a full disk does
        return real(descriptor, content)

    monkeypatch.setattr(rows.os, "write", write)
    monkeypatch.setattr(cli, "bench_of", lambda a: bench())
    monkeypatch.setattr(cli, "chosen", lambda names: [one])
    arguments = ["toy", "--out", str(tmp_path / "full")]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("ablation: ") and "No space left" in said and "start again" in said
    written = rows_of(tmp_path / "full" / "toy")
    assert 0 < len(written) < len(wanted) and written.items() <= wanted.items()
    files = list((tmp_path / "full" / "toy").iterdir())
    assert files and all(file.read_bytes().endswith(b"\n") for file in files)
    monkeypatch.setattr(rows.os, "write", real)
    assert cli.main(arguments) == 0 and rows_of(tmp_path / "full" / "toy") == wanted


# --- processes that die ---------------------------------------------------------------------------

TOY = """
import os, random, signal, sys, time
from pathlib import Path
from typing import NamedTuple
from benchmarks.ablation import rows, work

folder, kills = Path(sys.argv[1]), int(sys.argv[2])

class Variant(NamedTuple):
    digest: str

VARIANTS = [Variant(d) for d in "abcde"]

def unit(i):
    ids = {v.digest: [f"{i}{v.digest}{k}" for k in range(4)] for v in VARIANTS}
    return work.Unit(f"unit{i}", i, tuple(VARIANTS), ids)

UNITS = [unit(i) for i in range(6)]

def compute(unit, variants):
    for variant in variants:
        time.sleep(0.004)
        yield variant, [{"value": f"{unit.batch}{variant.digest}{k}" * 20} for k in range(4)]

def child(share):
    pid = os.fork()
    if pid == 0:
        work.work(UNITS, folder, compute, lambda writer, unit: None, share)
        os._exit(0)
    return pid

def end(pid, killed=False):
    if killed:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert killed or status == 0, status

random.seed(0)
for _ in range(kills):
    pid = child(work.Share())
    time.sleep(random.uniform(0.005, 0.03))
    end(pid, killed=True)
if kills == 0:  # two ranks, of which one dies
    pair = [child(work.Share(i, 2)) for i in range(2)]
    time.sleep(0.02)
    end(pair[0], killed=True)
    end(pair[1])
    pair = [child(work.Share(i, 2)) for i in range(2)]
    for pid in pair:
        end(pid)
else:
    work.work(UNITS, folder, compute, lambda writer, unit: None)
print(len(work.done(folder)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("kills", (10, 0))
def test_no_row_is_lost_or_doubled_by_a_process_that_dies(tmp_path, kills):
    """Ten are killed at random moments; or one of two that share the folder."""
    program = tmp_path / "toy.py"
    program.write_text(TOY, encoding="utf-8")
    command = [sys.executable, str(program), str(tmp_path / "rows"), str(kills)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "120", done.stderr[-2000:]
    found = [line for p in (tmp_path / "rows").glob("*.jsonl") for line in rows.lines(p)]
    assert sorted(line["id"] for line in found) == sorted(
        f"{i}{d}{k}" for i in range(6) for d in "abcde" for k in range(4)
    )
    assert all(line["value"] == line["id"] * 20 for line in found)


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 13))
def test_a_share_comes_first_and_all_is_done_unless_it_is_alone(count, index, size):
    units, index = list(range(size)), index % count
    own = units[index::count]
    assert work.Share(index, count, alone=True).of_units(units) == own
    found = work.Share(index, count).of_units(units)
    assert found[: len(own)] == own and sorted(found) == units


def test_results_that_two_machines_share_count_once(tmp_path):
    """Files of two machines in one folder: rows of both, each once; what explains them stays."""
    ours = [{"kind": "run", "run": "r"}, *({"kind": "row", "id": f"{i}"} for i in (1, 2, 3))]
    theirs = [{"kind": "run", "run": "s"}, *({"kind": "row", "id": f"{i}"} for i in (3, 1, 4))]
    for name, found in (("a", ours), ("b", theirs)):
        text = "".join(json.dumps(line) + "\n" for line in found)
        (tmp_path / f"{name}.jsonl").write_text(text)
    read = rows.read(tmp_path)
    assert [line["id"] for line in read if line["kind"] == "row"] == ["1", "2", "3", "4"]
    assert [line["run"] for line in read if line["kind"] == "run"] == ["r", "s"]


def test_a_unit_that_another_process_has_is_left_to_it(tmp_path):
    one = experiment(vary={"mask_threshold": (0.3, 0.5)})
    job = engine.lay_out(one, bench(), tmp_path)
    job.folder.mkdir()
    with rows.locked(job.folder / f"{job.units[0].name}.jsonl") as writer:
        assert writer is not None
        elsewhere, _ = engine.run(job)
    assert elsewhere == 1 and len(rows_of(job.folder)) == 2
    assert engine.run(job)[0] == 0 and len(rows_of(job.folder)) == 8


# ---- the command's pictures ----------------------------------------------------------------------


def test_another_size_has_rows_of_its_own():
    """`--size` draws the scenes at it, by default at the model's; rows of two sizes do not mix."""

    def found(*words):
        bench = cli.bench_of(cli.parser().parse_args(["threshold", *words]))
        return bench.size, next(bench.batches("test", 1, (0,))).make()[0].source.shape

    own, small = found(), found("--size", "128")
    assert own == found("--size", "256") and own[1] == (3, 256, 256)
    assert small[0] != own[0] and small[1] == (3, 128, 128)
    with pytest.raises(InputError, match="200x200.*--size"):
        found("--size", "200")
