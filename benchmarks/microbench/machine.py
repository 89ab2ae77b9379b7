"""What is measured on: device and versions. No names of hosts, users or paths."""

import os
import platform
import re
import subprocess
from pathlib import Path

import mindspore as ms

from diffedit_core import kernels as K
from diffedit_core.errors import InputError

FIELDS = ("soc", "cann", "driver", "mindspore", "host", "commit")
SAME = ("soc", "cann", "driver", "mindspore", "host")  # must agree to compare two runs
HF32 = ("none", "conv", "matmul", "both")


def describe():
    """{field of `FIELDS`: text or None}."""
    return {
        "soc": soc(),
        "cann": first_version(cann_files()),
        "driver": first_version([Path("/usr/local/Ascend/driver/version.info")]),
        "mindspore": ms.__version__,
        "host": host(),
        "commit": commit(),
    }


def soc():
    """Name of the chip; "CPU" on a CPU."""
    if K.device() == "CPU":
        return "CPU"
    return str(ms.hal.get_device_name(0))


def host():
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
    root = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def prepare(jit_level, hf32):
    """Set what has to be set before the first operation, once in a process.

    Raises: InputError: an option that would change nothing on this device.
    """
    if K.device() != "Ascend":
        for option, value in (("--jit-level", jit_level), ("--hf32", hf32)):
            if value not in (None, "none"):
                raise InputError(
                    f"{option} {value} would change nothing on a {K.device()}: leave it out."
                )
        return
    if jit_level is not None:
        ms.set_context(jit_config={"jit_level": jit_level})
    from mindspore.device_context.ascend import op_precision

    op_precision.conv_allow_hf32(hf32 in ("conv", "both"))
    op_precision.matmul_allow_hf32(hf32 in ("matmul", "both"))


def check_timers(timers):
    """Raises InputError for a timer that this device does not have."""
    for timer in timers:
        if timer != "wall" and K.device() != "Ascend":
            raise InputError(
                f"--timer {timer} needs an Ascend device, this is a {K.device()}: use wall."
            )


def peak_memory():
    """The largest memory so far in bytes: the device's; on a CPU, that of the process (Linux), or
    None."""
    if K.device() != "CPU":
        return int(ms.runtime.max_memory_allocated())
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024
