"""Published and measured peaks, and what bounds a call."""

from typing import NamedTuple

MSMODELING = "Ascend/msmodeling tensor_cast/device.py"


class Peak(NamedTuple):
    """TFLOP/s of the matrix unit for each dtype, and GB/s of the memory; None: not published."""

    fp16: float
    bf16: float
    fp32: float
    memory: float
    source: str


TIB = 2**40 / 1e9

# Name of the chip as the device gives it -> its peaks. bf16's figure, cores x GHz x 8192, is the
# ceiling of fp16, too. Whether fp32's figure is of HF32 is not said.
PUBLISHED = {
    "Ascend910B1": Peak(None, None, None, None, "no public figure of the manufacturer"),
    "Ascend910B2": Peak(353.9, 353.9, 99.5, 1.6 * TIB, MSMODELING),
    "Ascend910B3": Peak(294.9, 294.9, 83, 1.6 * TIB, MSMODELING),
    "Ascend910B4": Peak(245.8, 245.8, 75, 0.8 * TIB, MSMODELING),
    "Ascend910_93": Peak(353.9, 353.9, 99.5, 1.6 * TIB, f"{MSMODELING}, one die of a 752T A3"),
    "Ascend310P": Peak(
        140, None, None, 408, "Atlas 300I Duo's int8 halved (inferred); ComputerBase"
    ),
}
ANCHOR_OPS = ("matmul", "copy", "triad", "launch")
LAUNCH_BOUND = 2  # a call that takes less than this many empty launches


def published(soc):
    """The peaks of a chip, by the longest name that its own begins with; None for others."""
    names = [name for name in PUBLISHED if (soc or "").startswith(name)]
    return PUBLISHED[max(names, key=len)] if names else None


def measured(anchors, dtype):
    """{"flops", "bytes" (each per second), "launch_us"} of a run's anchor records in a dtype; None
    for what was not measured."""
    own = [r for r in anchors if r["dtype"] == dtype]

    def best(ops, field):
        rates = [r[field] for r in own if r["op"] in ops and r.get(field)]
        return max(rates, default=None)

    compute, memory = best(("matmul",), "tflops"), best(("copy", "triad"), "gbs")
    launches = [time_of(r) for r in own if r["op"] == "launch"]
    return {
        "flops": compute and compute * 1e12,
        "bytes": memory and memory * 1e9,
        "launch_us": min(launches, default=None),
    }


def times_of(record):
    """The figures of the best timer of a record; None if it was not timed."""
    return record.get("device_us") or record.get("event_us") or record.get("wall_us")


def time_of(record):
    """Median in microseconds by the best timer of a record; None if it was not timed."""
    found = times_of(record)
    return found and found["p50"]


def rates(record, soc, peak):
    """Fields of a record: TFLOP/s, GB/s, shares of the published and the measured peaks, bound.

    Args: record: with flops, bytes and a time; peak: of `measured`, or None.
    """
    us, peak = time_of(record), peak or {}
    if not us:
        return {}
    flops, size, paper = record["flops"] / us * 1e6, record["bytes"] / us * 1e6, published(soc)
    cube = paper and getattr(paper, record["dtype"])
    fields = {
        "tflops": flops / 1e12,
        "gbs": size / 1e9,
        "pct_cube": 100 * flops / 1e12 / cube if cube else None,
        "pct_hbm": 100 * size / 1e9 / paper.memory if paper and paper.memory else None,
        "pct_measured_flops": 100 * flops / peak["flops"] if peak.get("flops") else None,
        "pct_measured_bytes": 100 * size / peak["bytes"] if peak.get("bytes") else None,
        "roofline_pct": None,
        "bound": None,
    }
    if peak.get("flops") and peak.get("bytes"):
        compute, memory = record["flops"] / peak["flops"], record["bytes"] / peak["bytes"]
        fields["roofline_pct"] = 100 * max(compute, memory) / (us / 1e6)
        fields["bound"] = "compute" if compute > memory else "memory"
        # launches are part of what event and wall count, not of the device's own time
        launch = None if record.get("device_us") else peak.get("launch_us")
        if launch and us < LAUNCH_BOUND * launch:
            fields["bound"] = "launch"
    return fields
