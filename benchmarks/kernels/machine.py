"""What is measured on: device and versions. No names of hosts, users or paths."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

import mindspore as ms

from diffedit_core import kernels as K
from diffedit_core.errors import InputError

FIELDS = ("soc", "cann", "driver", "mindspore", "processor", "commit")
SAME = ("soc", "cann", "driver", "mindspore", "processor")  # must agree to compare two runs


def describe():
    """{field of `FIELDS`: text or None}."""
    return {
        "soc": soc(),
        "cann": first_version(cann_files()),
        "driver": first_version([Path("/usr/local/Ascend/driver/version.info")]),
        "mindspore": ms.__version__,
        "processor": processor(),
        "commit": commit(),
    }


def soc():
    """Name of the chip; "CPU" on a CPU."""
    if K.device() == "CPU":
        return "CPU"
    return str(ms.hal.get_device_name(ms.get_context("device_id")))


def processor():
    """The processor and the number of its cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: the short name has to do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def cann_files():
    """Where CANN's version may stand."""
    root = Path(os.environ.get("ASCEND_HOME_PATH", "/usr/local/Ascend/ascend-toolkit/latest"))
    return [root / "version.cfg", *sorted(root.glob("*/ascend_toolkit_install.info"))]


def first_version(files):
    """The first version number in the files that are there; None without one."""
    for file in files:
        if file.is_file():
            found = re.search(r"\d+\.\d+[\w.]*", file.read_text(errors="replace"))
            if found:
                return found[0]
    return None


def commit():
    """The state of the source, with "+" where files differ from it; None outside a repository."""
    text = output_of(["git", "describe", "--always", "--dirty=+", "--exclude=*"])
    return text and text.strip()


def today():
    """The date, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def prepare(jit_level, hf32):
    """Set what has to be set before the first operation, once in a process."""
    if K.device() != "Ascend":
        return
    if jit_level is not None:
        ms.set_context(jit_config={"jit_level": jit_level})
    from mindspore.device_context.ascend import op_precision

    op_precision.conv_allow_hf32(hf32 in ("conv", "both"))
    op_precision.matmul_allow_hf32(hf32 in ("matmul", "both"))


def default_timers():
    """All that the device has."""
    return ("device", "event", "wall") if K.device() == "Ascend" else ("wall",)


def check(timers, l2, jit_level, hf32, profile_dir):
    """Raises InputError for an option that would change nothing on this device."""
    if K.device() == "Ascend":
        return
    given = [("--timer", timer, "wall") for timer in timers]
    given += [("--l2", l2, "warm"), ("--jit-level", jit_level, None), ("--hf32", hf32, "none")]
    given.append(("--profile-dir", profile_dir, None))
    for option, value, only in given:
        if value not in (None, only):
            raise InputError(
                f"{option} {value} needs an Ascend device, this is a {K.device()}: leave it out."
            )


def check_dtypes(dtypes):
    """Raises InputError for a dtype that the device lacks."""
    for dtype in dtypes:
        K.check_dtype(dtype)


def reset_memory():
    """Forget the device's largest memory so far; a CPU has none to forget."""
    if K.device() != "CPU":
        ms.runtime.reset_peak_memory_stats()


def clock():
    """MHz at this moment: of the device's cores by its own tool, of the first core of a CPU; None
    where neither says."""
    if K.device() != "CPU":
        return clock_of(output_of(["npu-smi", "info", "-t", "common", "-i", device_id()]))
    try:
        found = re.search(r"cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        return None
    return found and round(float(found[1]))


def clock_of(text):
    """MHz in what npu-smi prints: the current frequency of the AI cores, or their only one."""
    rows = re.findall(r"(?im)^\s*(.*ai\s*core.*freq[^:]*):\s*(\d+)", text or "")
    current = [mhz for name, mhz in rows if "cur" in name.lower()]
    return next((int(mhz) for mhz in current + [mhz for _, mhz in rows]), None)


def device_id():
    """Number of the device in use, as text."""
    return str(ms.get_context("device_id"))


def output_of(command):
    """What a program prints; None where it is not there or fails."""
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory():
    """The device's largest memory since `reset_memory`, in bytes; None on a CPU, where only that
    of the whole process is known."""
    return None if K.device() == "CPU" else int(ms.runtime.max_memory_allocated())
