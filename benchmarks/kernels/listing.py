"""What would be measured, as text."""

from . import flops, suite


def heading(where, settings):
    """The first lines of a run: what it is measured on, and how to read the rows."""
    versions = ", ".join(f"{name} {where[name]}" for name in where if where[name])
    return (
        f"# {versions}\n# jit level {settings.jit_level or 'default'}, HF32 {settings.hf32}, "
        f"caches {settings.l2}, timers {', '.join(settings.timers)}, {settings.iters} calls "
        f"{settings.repeats} times after {settings.warmup}\n"
        "# median (20 % to 80 %); errors in units of the largest one allowed"
    )


def calls(planned):
    """The distinct calls, most operations first."""
    lines = []
    for part, dtype, found in planned:
        total = sum(flops.flops(c) * n for c, n in found.items())
        lines.append(
            f"{part.name} {dtype}: {len(found)} distinct calls, {sum(found.values())} in all, "
            f"{total / 1e9:.1f} GFLOP"
        )
        for call, times in sorted(found.items(), key=lambda c: -flops.flops(c[0]) * c[1]):
            lines.append(f"  {times:>4} x {described(call)}")
    return "\n".join(lines) or "the anchors alone"


def described(call):
    """A call in one line."""
    shapes = " ".join("x".join(map(str, shape)) for shape in call.shapes)
    settings = f" {list(call.settings)}" if call.settings else ""
    return (
        f"{call.name:<20}{flops.flops(call) / 1e9:9.3f} GFLOP {flops.bytes_of(call) / 1e6:8.1f} MB "
        f" {shapes}{settings}"
    )


def work(settings, planned, files):
    """What a run would measure, and write."""
    lines, variants = [], len(settings.kernels)
    for dtype in settings.dtypes:
        lines.append(f"anchors {dtype}: {len(suite.anchors(dtype))} calls")
    for part, dtype, found in planned:
        whole = settings.evaluated
        lines.append(
            f"{part.name} {dtype}: {len(found)} calls with {' and '.join(settings.kernels)}, a "
            f"whole evaluation with {' and '.join(whole) or 'none'}: "
            f"{len(found) * variants + len(whole)} rows"
        )
    each = settings.warmup + 1 + settings.iters * settings.repeats * len(settings.timers)
    total = sum(flops.flops(c) for _, _, found in planned for c in found)
    lines.append(
        f"timers {', '.join(settings.timers)}: each call about {each} times, "
        f"{total * each * variants / 1e12:.1f} TFLOP in all"
    )
    lines += [f"would write {path}" for path in files.values()]
    return "\n".join(lines)
