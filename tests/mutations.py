"""Plant faults in the equations and see that the tests find every one.

    python -m tests.mutations [--only NAME] [--list]

Each fault replaces a piece of text in a copy of the tree; then the tests that belong to the file
run there until one fails. Before that they have to pass there without a fault.
A fault that survives is a gap in the tests: its name is printed and the exit code is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TESTS = {  # what has to notice, the quickest first
    "schedule": ("tests/test_schedule.py", "tests/test_laws.py"),
    "mask": ("tests/test_mask.py",),
    "diffedit": ("tests/test_diffedit.py",),
    "integrators": ("tests/test_integrators.py", "tests/test_laws.py", "tests/test_diffedit.py"),
    "regularise": ("tests/test_regularise.py",),
}


class Fault(NamedTuple):
    """In one module of diffedit_core, `old`, which is there once, becomes `new`; `first` selects
    (-k) what to try first."""

    name: str
    module: str
    old: str
    new: str
    first: str = ""


FAULTS = (
    # --- schedule
    Fault(
        "float32 cumprod",
        "schedule",
        "return np.cumprod(1 - betas(config))",
        "return np.cumprod((1 - betas(config)).astype(np.float32)).astype(np.float64)",
    ),
    Fault(
        "scaled_linear not squared",
        "schedule",
        "config.beta_end ** 0.5, n) ** 2",
        "config.beta_end ** 0.5, n)",
    ),
    Fault(
        "cosine offset",
        "schedule",
        "np.arange(n + 1) / n + 0.008) / 1.008",
        "np.arange(n + 1) / n + 0.08) / 1.08",
    ),
    Fault(
        "zero SNR rescales the square",
        "schedule",
        "root = np.sqrt(np.cumprod(1 - values))",
        "root = np.cumprod(1 - values)",
    ),
    Fault(
        "leading grid forgets its offset",
        "schedule",
        "return steps + min(config.steps_offset, total - 1 - steps[-1])",
        "return steps + min(0, total - 1 - steps[-1])",
    ),
    Fault(
        "trailing grid one late",
        "schedule",
        "* (total / n)).astype(np.int64) - 1",
        "* (total / n)).astype(np.int64)",
    ),
    Fault(
        "trailing grid steps by T // N",
        "schedule",
        "np.arange(n)[::-1] * (total / n)",
        "np.arange(n)[::-1] * (total // n)",
    ),
    Fault(
        "linspace to T",
        "schedule",
        "np.linspace(0, total - 1, n)",
        "np.linspace(0, total - 1, n, endpoint=False)",
    ),
    Fault(
        "clean level is always 1", "schedule", "1.0 if config.set_alpha_to_one else bar[0]", "1.0"
    ),
    Fault(
        "alphas one level off",
        "schedule",
        "np.concatenate(([clean], bar[timesteps]))",
        "np.concatenate(([clean], bar[np.maximum(timesteps - 1, 0)]))",
    ),
    Fault(
        "coefficient through float32",
        "schedule",
        "return Tensor(np.float64(value), ms.float64).astype(like.dtype)",
        "return Tensor(np.float32(value), ms.float32).astype(like.dtype)",
    ),
    Fault(
        "sign of the eps coefficient",
        "schedule",
        "direction - math.sqrt(alpha_to * (1 - alpha_from) / alpha_from)",
        "direction + math.sqrt(alpha_to * (1 - alpha_from) / alpha_from)",
    ),
    Fault(
        "alpha of the other level",
        "schedule",
        "return math.sqrt(alpha_to / alpha_from), direction",
        "return math.sqrt(alpha_from / alpha_to), direction",
    ),
    Fault(
        "v rotation the wrong way",
        "schedule",
        "direction * signal - math.sqrt(alpha_to) * noise",
        "direction * signal + math.sqrt(alpha_to) * noise",
    ),
    Fault(
        "sigma without its root",
        "schedule",
        "return eta * math.sqrt((1 - alpha_to) / (1 - alpha_from) * (1 - alpha_from / alpha_to))",
        "return eta * (1 - alpha_to) / (1 - alpha_from) * (1 - alpha_from / alpha_to)",
    ),
    Fault(
        "noise with the signal's weight",
        "schedule",
        "scalar(math.sqrt(max(0.0, 1 - alpha - sigma ** 2)), x0) * noise",
        "scalar(math.sqrt(alpha), x0) * noise",
    ),
    Fault(
        "sigma does not enter",
        "schedule",
        "max(0.0, 1 - alpha - sigma ** 2)",
        "max(0.0, 1 - alpha)",
    ),
    Fault(
        "eps and x0 of v exchanged",
        "schedule",
        "return v_to_x0(out, x, alpha), v_to_eps(out, x, alpha)",
        "return v_to_eps(out, x, alpha), v_to_x0(out, x, alpha)",
    ),
    Fault(
        "guidance without the unconditional part",
        "schedule",
        "return unconditional + scalar(scale, conditional) * (conditional - unconditional)",
        "return scalar(scale, conditional) * (conditional - unconditional)",
    ),
    # --- mask
    Fault(
        "no absolute value",
        "mask",
        "return ops.abs(target.astype(wide) - source.astype(wide)).mean(-3)",
        "return (target.astype(wide) - source.astype(wide)).mean(-3)",
    ),
    Fault("mean over rows instead of channels", "mask", ".mean(-3)", ".mean(-2)"),
    Fault(
        "whole-batch mean",
        "mask",
        'axes = (1, 2) if over == "image" else (0, 1, 2)',
        "axes = (0, 1, 2)",
    ),
    Fault(
        "clamp after scaling",
        "mask",
        "ops.minimum(noise_map, clamp) / ops.select(clamp > 0, clamp, ops.ones_like(clamp))",
        "noise_map / ops.select(clamp > 0, clamp, ops.ones_like(clamp))",
    ),
    Fault(
        "clamp at the quantile of the batch",
        "mask",
        'noise_map.shape[0] if over == "image" else 1',
        "1",
    ),
    Fault(
        "quantile one cell off",
        "mask",
        "place = ops.sort(rows, 1)[0], q * (rows.shape[1] - 1)",
        "place = ops.sort(rows, 1)[0], q * rows.shape[1]",
    ),
    Fault(
        "borders lose weight",
        "mask",
        "return weights / weights.sum(1, keepdims=True)",
        "return weights / weights.sum(1).max()",
    ),
    Fault(
        "rows smoothed twice",
        "mask",
        "ops.matmul(ops.matmul(rows, noise_map), columns.T)",
        "ops.matmul(rows, ops.matmul(rows, noise_map))",
    ),
    Fault(
        "threshold includes itself",
        "mask",
        "(normalised > mask_threshold)",
        "(normalised >= mask_threshold)",
    ),
    Fault(
        "mask upside down",
        "mask",
        "mask * edited + (1 - mask) * background",
        "(1 - mask) * edited + mask * background",
    ),
    Fault(
        "background not exact",
        "mask",
        "ops.select(ops.broadcast_to(mask, edited.shape) == 0, background, mixed)",
        "mixed * 1.0000001",
    ),
    # --- diffedit
    Fault(
        "swapped prompts",
        "diffedit",
        "M.channel_difference(part, parts[0])",
        "M.channel_difference(part, parts[-1])",
        "difference_agrees",
    ),
    Fault(
        "negative and positive exchanged",
        "diffedit",
        "ops.concat((negative, states), 0)",
        "ops.concat((states, negative), 0)",
        "guidance_asks",
    ),
    Fault(
        "noise draws repeated",
        "diffedit",
        "chunk = noise[:, start:start + map_batch]",
        "chunk = noise[:, :map_batch]",
        "difference_agrees",
    ),
    Fault(
        "late blend",
        "diffedit",
        'trail[i - 1 if blend_level == "same" else i], mask)',
        "trail[i], mask)",
        "empty_mask_gives",
    ),
    Fault(
        "inversion asks a level too high",
        "diffedit",
        'ahead = int(inversion_timestep == "destination"',
        'ahead = int(inversion_timestep != "destination"',
        "where_the_inversion_asks",
    ),
    Fault(
        "decoding skips the deepest level",
        "diffedit",
        "for done, i in enumerate(range(depth, 0, -1)):",
        "for done, i in enumerate(range(depth - 1, 0, -1)):",
        "decode_agrees",
    ),
    Fault(
        "inversion with the target prompt",
        "diffedit",
        'prompt = source if options.inversion_prompt == "source" else ""',
        'prompt = source if options.inversion_prompt == "source" else target',
        "each_phase_uses",
    ),
    Fault(
        "mask timestep one off",
        "diffedit",
        "timestep = int(S.grid(config, options.num_inference_steps)[level - 1])",
        "timestep = int(S.grid(config, options.num_inference_steps)[level - 2])",
        "mask_level_of",
    ),
    Fault(
        "partner is not blended",
        "diffedit",
        "edited._replace(latents=M.blend(edited.latents, background.latents, mask), partner=partner)",
        "edited._replace(latents=M.blend(edited.latents, background.latents, mask))",
        "both_latents",
    ),
    Fault(
        "plan forgets the guidance",
        "diffedit",
        "targets * down * (2 if options.guidance_scale != 1 else 1)",
        "targets * down",
        "plan_of_the_recipes",
    ),
    # --- integrators
    Fault(
        "2M extrapolates backwards",
        "integrators",
        "* math.expm1(-h) * h / (2 * (here - before))",
        "* math.expm1(-h) * h / (2 * (before - here))",
    ),
    Fault(
        "2M remembers when it turns round",
        "integrators",
        "state.history[0] == 2 * i - j",
        "state.history[0] != i",
    ),
    Fault(
        "EDICT mixes in the wrong order",
        "integrators",
        "mix(1, 1 / p), mix(0, 1 / p), step(order[1])",
        "mix(0, 1 / p), mix(1, 1 / p), step(order[1])",
    ),
    Fault(
        "EDICT does not alternate",
        "integrators",
        "order = (0, 1) if noisy % 2 else (1, 0)",
        "order = (0, 1)",
    ),
    Fault(
        "EDICT asks its own latent",
        "integrators",
        "eps = denoise(pair[1 - one], noisy)[1]",
        "eps = denoise(pair[one], noisy)[1]",
    ),
    Fault(
        "BELM's eps weight",
        "integrators",
        "S.scalar(step * (1 + q) * signal[after], x) * eps",
        "S.scalar(step * (1 + q * q) * signal[after], x) * eps",
    ),
    Fault(
        "BELM in x instead of u",
        "integrators",
        "S.scalar(q * q * signal[after] / signal[before], x) * other",
        "S.scalar(q * q, x) * other",
    ),
    Fault(
        "fixed point asks where it came from",
        "integrators",
        "denoise(x, j)[1], levels.alphas[i], levels.alphas[j])",
        "denoise(x, i)[1], levels.alphas[i], levels.alphas[j])",
    ),
    Fault(
        "batch stops as one",
        "integrators",
        "running &= (size > tolerance) & (worse < 2)",
        "running &= ((size > tolerance) & (worse < 2)).any()",
    ),
    # --- regularise
    Fault(
        "correlation not squared",
        "regularise",
        "((eps * rolled).mean((2, 3)) ** 2).sum()",
        "(eps * rolled).mean((2, 3)).sum()",
    ),
    Fault("biased variance", "regularise", "(rows.shape[1] - 1)", "rows.shape[1]"),
    Fault(
        "rolls not averaged",
        "regularise",
        "S.scalar(lambda_auto_corr / len(rolls), out)",
        "S.scalar(lambda_auto_corr, out)",
    ),
)


def failures(module, text, first=None):
    """The tests of a module that fail, the first at least, if its text in a copy of the tree is
    this one."""
    with tempfile.TemporaryDirectory() as place:
        for part in ("diffedit_core", "tests", "weights_convert", "benchmarks"):
            if (ROOT / part).is_dir():
                shutil.copytree(
                    ROOT / part,
                    Path(place) / part,
                    ignore=shutil.ignore_patterns("__pycache__", "*.jsonl"),
                )
        shutil.copy(ROOT / "setup.cfg", place)
        (Path(place) / "diffedit_core" / f"{module}.py").write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            *TESTS[module],
        ]
        environment = {**os.environ, "PYTHONPATH": place, "HYPOTHESIS_PROFILE": "faults"}
        for selection in filter(None, (first and ["-k", first], ["-k", ""])):
            run = subprocess.run(
                command + selection, cwd=place, env=environment, capture_output=True, text=True
            )
            if run.returncode not in (0, 1):
                raise SystemExit(
                    f"{module}: pytest could not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
                )
            failed = [
                line.split()[1]
                for line in run.stdout.splitlines()
                if line.startswith(("FAILED", "ERROR"))
            ]
            if failed:
                break
        return failed


def source(module):
    return (ROOT / "diffedit_core" / f"{module}.py").read_text(encoding="utf-8")


def found(fault):
    """The tests that fail with the fault in place."""
    text = source(fault.module)
    if text.count(fault.old) != 1:
        raise SystemExit(
            f"{fault.name}: its text is {text.count(fault.old)} times in {fault.module}.py: bring it up to date."
        )
    return failures(fault.module, text.replace(fault.old, fault.new), fault.first)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="faults of this module, or with this in their names")
    parser.add_argument("--list", action="store_true", help="only name them")
    arguments = parser.parse_args()
    chosen = [
        f
        for f in FAULTS
        if not arguments.only or arguments.only == f.module or arguments.only in f.name
    ]
    if arguments.list:
        print("\n".join(f"{fault.module:<12} {fault.name}" for fault in chosen))
        return 0
    for module in dict.fromkeys(fault.module for fault in chosen):
        failed = failures(module, source(module))
        if failed:
            raise SystemExit(f"Without a fault {', '.join(failed)} fails already: mend that first.")
    survivors = 0
    for fault in chosen:
        start = time.perf_counter()
        failed = found(fault)
        survivors += not failed
        print(
            f"{'caught' if failed else 'SURVIVES':<9} {fault.module:<12} {fault.name:<40} {time.perf_counter() - start:5.0f} s  "
            f"{', '.join(failed)}",
            flush=True,
        )
    print(f"{len(chosen) - survivors} of {len(chosen)} faults caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
