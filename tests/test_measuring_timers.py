"""benchmarks.kernels: the timers by a clock of our own, and the profiler's table by files that are
written from its documented columns."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import profiler

from benchmarks.kernels import machine, measure, profiler_csv, suite, timers
from diffedit_core import kernels as K
from diffedit_core.errors import InputError

from .test_config import refused

# --- timers ---------------------------------------------------------------------------------------


class Clock:
    """Time that passes only where something says that it takes some."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def takes(self, seconds, log=None, name=None):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 4), st.floats(1e-6, 1.0))
def test_wall_is_the_mean_of_its_calls(warmup, iters, repeats, seconds):
    clock, log = Clock(), []
    found = timers.wall(clock.takes(seconds, log), warmup, iters, repeats, clock=clock)
    assert len(found) == repeats and len(log) == warmup + iters * repeats
    np.testing.assert_allclose(found, seconds)


def test_a_flush_is_not_timed():
    """It comes before every call that is."""
    clock, log = Clock(), []
    flush = clock.takes(100.0, log, "flush")
    found = timers.wall(clock.takes(0.25, log, "call"), 1, 3, 2, flush, clock)
    assert found == [0.25] * 6
    assert log == ["call"] + ["flush", "call"] * 6


@given(st.integers(1, 6), st.integers(1, 4), st.floats(0, 10), st.floats(1e-6, 1.0))
def test_event_is_the_slope(iters, repeats, constant, seconds):
    """What does not grow with the number of calls falls out."""
    log = []

    def bracket(function, times):
        log.append(times)
        return constant + seconds * times

    found = timers.event(lambda: None, 0, iters, repeats, bracket)
    np.testing.assert_allclose(found, seconds, atol=1e-12)
    assert len(found) == repeats and log == [iters, 2 * iters] * repeats


@given(st.lists(st.floats(1e-7, 1e3), min_size=1, max_size=30))
def test_statistics(seconds):
    found = timers.statistics(seconds)
    us = np.array(seconds) * 1e6
    assert found["n"] == len(seconds)
    assert found["p20"] <= found["p50"] <= found["p80"]
    for name, wanted in (("p50", np.median(us)), ("min", us.min())):
        assert abs(found[name] - wanted) <= 0.0005 + 1e-9 * wanted
    assert (us <= found["p20"] + 0.001).mean() >= 0.2 <= (us >= found["p80"] - 0.001).mean()


def test_the_timers_have_to_agree():
    """device <= event <= wall, but for noise."""
    assert timers.check_order({"device": 10.0, "event": 11.0, "wall": 12.0}) is None
    assert timers.check_order({"device": 10.1, "event": 10.0, "wall": 12.0}) is None
    assert timers.check_order({"wall": 5.0}) is None
    assert "device says 20.0 us, event only 10.0" in timers.check_order(
        {"wall": 30.0, "event": 10.0, "device": 20.0}
    )
    assert "event says 30.0 us, wall only 12.0" in timers.check_order({"wall": 12.0, "event": 30.0})
    assert "device says 30.0 us, wall only 12.0" in timers.check_order(
        {"wall": 12.0, "device": 30.0}
    )


# --- the profiler's table -------------------------------------------------------------------------

LEVEL0 = (
    "Step ID,Model ID,Task ID,Stream ID,Name,Type,OP State,Accelerator Core,Start Time(us),"
    "Duration(us),Wait Time(us),Block Dim"
).split(",")
LEVEL1 = LEVEL0 + (
    "Mix Block Dim,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,"
    "Output Data Types,Output Formats,Context ID,aicore_time(us),aic_mac_ratio,aic_mte2_ratio,"
    "aiv_vec_ratio,cube_utilization(%)"
).split(",")
KERNELS = (  # of one step: type, core, microseconds from its start, duration, columns of level 1
    ("TransData", "AI_VECTOR_CORE", 0.0, 2.0, {"aiv_vec_ratio": "0.5"}),
    ("Conv2D", "AI_CORE", 2.5, 10.0, {"aic_mac_ratio": "0.8", "HF32 Eligible": "YES"}),
    ("Cast", "AI_CPU", 13.0, 4.0, {"aic_mac_ratio": "N/A"}),
)
FLUSH = ("ReduceMax", "AI_VECTOR_CORE", -50.0, 40.0, {})


def table(columns, count, kernels=KERNELS, step_length=100.0):
    """The lines of a file with so many equal steps. The profiler ends a start time with a tab."""
    lines = [",".join(columns)]
    for step in range(count):
        for kind, core, start, duration, more in kernels:
            cells = {
                "Step ID": step,
                "Name": f"Default/{kind}-op{step}",
                "Type": kind,
                "Accelerator Core": core,
                "Start Time(us)": f"{1e9 + step * step_length + start:.3f}\t",
                "Duration(us)": duration,
                "Block Dim": 24,
                "Input Shapes": '"2,320,64,64"',
                **more,
            }
            lines.append(",".join(str(cells.get(name, "N/A")) for name in columns))
    return lines


def written(place, lines, end="\n"):
    file = place / "kernel_details.csv"
    file.write_text("\n".join(lines) + end, encoding="utf-8-sig")
    return file


WITHOUT_STEP = LEVEL1[1:]


@pytest.mark.parametrize(
    "columns", (LEVEL0, LEVEL1, WITHOUT_STEP, LEVEL0[1:]), ids=("L0", "L1", "L1 O2", "L0 O2")
)
@pytest.mark.parametrize("kernels", (KERNELS, (FLUSH, *KERNELS)), ids=("warm", "cold"))
def test_the_profilers_table(tmp_path, columns, kernels):
    """Kernel by kernel (O0) a file has steps, as a whole graph (O2) it has none."""
    found = profiler_csv.steps(written(tmp_path, table(columns, 4, kernels)), 4)
    assert found.device_us == [16.0] * 4
    np.testing.assert_allclose(found.span_us, 17.0, atol=1e-6)
    fields = found.fields()
    assert fields["launches"] == 3 and fields["transdata_us"] == 2 and fields["aicpu_us"] == 4
    assert [kernel[0] for kernel in fields["kernels"]] == ["TransData", "Conv2D", "Cast"]
    known = "aic_mac_ratio" in columns
    assert fields["mac_ratio"] == (0.8 if known else None)
    assert fields["vec_ratio"] == (0.5 if known else None)
    assert fields["mte2_ratio"] is None and fields["cube_utilization"] is None
    assert fields["kernels"][1][3] == ("YES" if known else None)


@pytest.mark.parametrize("name", profiler_csv.NEEDED)
def test_a_missing_column_is_named(tmp_path, name):
    columns = [column for column in LEVEL1 if column != name]
    file = written(tmp_path, table(columns, 2))
    refused(lambda: profiler_csv.read(file), name, "no column")


def test_a_file_that_is_cut_off(tmp_path):
    """Anywhere: in the header, between lines, within one; said in one sentence."""
    whole = "\n".join(table(LEVEL1, 3))
    rng = np.random.default_rng(0)
    for length in sorted({0, 1, 20, *rng.integers(0, len(whole) - 1, 60).tolist()}):
        file = written(tmp_path, [whole[:length]], end="")
        # the cut may fall within the last cell of the last step, which then is another text
        if length > len(whole) - 4:
            continue
        with pytest.raises(InputError) as caught:
            profiler_csv.steps(file, 3)
        assert "kernel_details.csv" in str(caught.value) and len(str(caught.value)) < 700


def test_what_else_may_be_wrong_with_it(tmp_path):
    def steps(lines, count=3):
        return lambda: profiler_csv.steps(written(tmp_path, lines), count)

    good = table(LEVEL1, 3)
    other = [*good[:8], good[8].replace("Conv2D", "Mul"), good[9]]
    unknown = [*good[:9], "," + good[9].split(",", 1)[1]]
    refused(steps(good, 2), "3 steps", "2 ran")
    refused(steps(other), "step", "cannot be averaged")
    refused(steps(unknown), "some kernels have a step")
    refused(steps([*good[:9], good[9].replace("4.0", "fast")]), "Duration(us)", "a number")
    refused(steps(good[:1]), "header", "no kernel")
    refused(steps(table(WITHOUT_STEP, 3)[:-1]), "share equally")
    refused(lambda: profiler_csv.read(tmp_path / "none.csv"), "cannot be read")
    (tmp_path / "kernel_details.csv").write_bytes(b"\xff\xfe\x00Name")
    refused(lambda: profiler_csv.read(tmp_path / "kernel_details.csv"), "cannot be read")


# --- the whole of it, with a device that is played ------------------------------------------------


class Played:
    """The profiler, as far as it is used: writes its table at the end."""

    def __init__(self, lines):
        self.lines, self.steps, self.options = lines, 0, None

    def __call__(self, **options):
        self.options = options
        return self

    def __enter__(self):
        return self

    def step(self):
        self.steps += 1

    def __exit__(self, *_):
        place = self.options["on_trace_ready"]
        place = place / "host_1_ascend_ms" / "ASCEND_PROFILER_OUTPUT"
        place.mkdir(parents=True)
        if self.lines:
            written(place, self.lines)


@pytest.fixture
def play(monkeypatch):
    """A device that is played by functions: give it the lines of the profiler's table."""

    def start(lines):
        from pathlib import Path

        played = Played(lines)
        monkeypatch.setattr(profiler, "profile", played)
        monkeypatch.setattr(profiler, "tensorboard_trace_handler", Path)
        monkeypatch.setattr(ms.runtime, "synchronize", lambda: None)
        return played

    return start


def test_the_device_timer(play):
    """Every call is a step; level 1 with the shares of the pipes is asked for."""
    played, calls = play(table(LEVEL1, 4)), []
    found = timers.device(lambda: calls.append(1), 2, 4)
    assert found.device_us == [16.0] * 4 and played.steps == len(calls) == 2 + 4
    wanted = played.options["experimental_config"]
    assert wanted._profiler_level == profiler.ProfilerLevel.Level1
    assert wanted._aic_metrics == profiler.AicoreMetrics.PipeUtilization


def test_a_table_that_is_refused_costs_the_device_time_only(play, tmp_path):
    """The other timers' results stay, and the row says why."""
    play(table(LEVEL1, 3)[:-1])
    how = suite.Settings((), "orchard", 32, 1, (), (), ("device", "wall"), iters=3, repeats=2)
    fields = measure.times(lambda: None, how, tmp_path)
    assert "device_us" not in fields and fields["wall_us"]["n"] == 2
    assert fields["note"].startswith("no device time: kernel_details.csv")


def test_the_profiler_wrote_nothing(play):
    play(None)
    refused(lambda: timers.device(lambda: None, 0, 2), "kernel_details.csv", "--timer event")


def test_the_options_that_the_profiler_takes():
    """They are those of the installed MindSpore, which takes names that it does not know for an
    error."""
    profiler._ExperimentalConfig(
        profiler_level=profiler.ProfilerLevel.Level1,
        aic_metrics=profiler.AicoreMetrics.PipeUtilization,
    )
    profiler.schedule(wait=0, warmup=1, active=3, repeat=1, skip_first=0)
    assert profiler.ProfilerActivity.CPU and profiler.ProfilerActivity.NPU
    assert callable(ms.runtime.Event.elapsed_time) and callable(ms.runtime.synchronize)


# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, mhz",
    [
        ("\tAicore Freq(MHZ)               : 1800\n\tAicore curFreq(MHZ)  : 800\n", 800),
        ("\tNPU Real-time Power(W) : 70\n\tAicore Freq(MHZ)  : 1650\n", 1650),
        ("no such device", None),
        (None, None),
    ],
)
def test_the_clock_in_what_the_devices_tool_prints(text, mhz):
    assert machine.clock_of(text) == mhz


def test_versions_are_the_first_number_of_a_file(tmp_path):
    (tmp_path / "version.cfg").write_text("# 2026\nruntime_running_version=[8.3.RC1:abc]\n")
    assert machine.first_version([tmp_path / "none", tmp_path / "version.cfg"]) == "8.3.RC1"
    assert machine.first_version([tmp_path / "none"]) is None


def test_a_cpu_has_no_device_time():
    """Each option that would change nothing is refused by its name."""
    assert K.device() == "CPU" and machine.default_timers() == ("wall",)
    plain = (("wall",), "warm", None, "none", None)
    machine.check(*plain)
    for place, value, name in (
        (0, ("wall", "event"), "--timer event"),
        (0, ("device",), "--timer device"),
        (1, "cold", "--l2 cold"),
        (2, "O1", "--jit-level O1"),
        (3, "conv", "--hf32 conv"),
        (4, "folder", "--profile-dir folder"),
    ):
        given = (*plain[:place], value, *plain[place + 1 :])
        refused(lambda: machine.check(*given), name, "leave it out")


def test_paths_are_cut_out_of_a_failure():
    text = "\nUnsupported op [X] on CPU, see /home/me/lib/a.cc:30 or C:\\Users\\me\\b.py\nmore"
    assert measure.without_paths(text) == "Unsupported op [X] on CPU, see a.cc:30 or b.py"
