"""Faults in benchmarks/ablation: cache, files of rows, plan, shares, tables, measures."""

from . import Fault

FILES = tuple(
    f"tests/test_ablation{name}.py"
    for name in ("", "_experiments", "_identity", "_tables", "_pictures")
)
TESTS = {
    f"benchmarks/ablation/{name}": FILES
    for name in "cache rows plan work tables measures engine editing subjects".split()
}
TESTS["benchmarks/ablation/pie_bench"] = ("tests/test_pie_bench.py",)

FAULTS = (
    Fault(
        "a changed file is believed",
        "benchmarks/ablation/cache",
        'if digest(facts["structure"], arrays) != facts["sha256"]:',
        "if False:",
        "not_read",
    ),
    Fault(
        "what a value depends on is not in its name",
        "benchmarks/ablation/cache",
        "digest(context, stage, key) if",
        "digest(stage, key) if",
        "another_context",
    ),
    Fault(
        "what was found counts as computed",
        "benchmarks/ablation/cache",
        "entry.evaluations if fresh else 0",
        "entry.evaluations",
        "plan_is_what",
    ),
    Fault(
        "compiling is paid for by whoever is first",
        "benchmarks/ablation/editing",
        "return time.perf_counter() - self.compiling",
        "return time.perf_counter()",
        "compiling",
    ),
    Fault(
        "the window's share is that of the mask",
        "benchmarks/ablation/engine",
        "margin, multiple = variant.options.decode_window, self.job.bench.configs.unet.factor",
        "margin, multiple = variant.options.decode_window, 1",
        "share_of_the_cells",
    ),
    Fault(
        "what was used last goes first",
        "benchmarks/ablation/cache",
        "popitem(last=False)",
        "popitem(last=True)",
        "memory_is_bounded",
    ),
    Fault(
        "files that were used last go first",
        "benchmarks/ablation/cache",
        "in sorted(found):",
        "in sorted(found, reverse=True):",
        "oldest_goes_first",
    ),
    Fault(
        "the tenth array is the second",
        "benchmarks/ablation/cache",
        "sorted(names, key=int)",
        "sorted(names)",
        "however_many",
    ),
    Fault(
        "what was cut off stays",
        "benchmarks/ablation/rows",
        "os.ftruncate(descriptor, whole)",
        "pass",
        "cut_off",
    ),
    Fault(
        "a row of two files counts twice",
        "benchmarks/ablation/rows",
        "if name is None or name not in seen:",
        "if True:",
        "two_machines",
    ),
    Fault(
        "half a line stays where the disk is full",
        "benchmarks/ablation/rows",
        "os.ftruncate(self.descriptor, size)",
        "pass",
        "full_disk_is",
    ),
    Fault(
        "shared steps are counted each time",
        "benchmarks/ablation/plan",
        "sum({s.name: s.evaluations for asked in lists.values() for s in asked}.values())",
        "sum(s.evaluations for asked in lists.values() for s in asked)",
        "share_half",
    ),
    Fault(
        "variants that share work stand apart",
        "benchmarks/ablation/plan",
        "if step.evaluations and group[first] is not",
        "if False and group[first] is not",
        "groups",
    ),
    Fault(
        "a row is written again",
        "benchmarks/ablation/work",
        "if name not in there:",
        "if True:",
        "one_row",
    ),
    Fault(
        "a dead process's units are left",
        "benchmarks/ablation/work",
        "others = [] if self.alone else",
        "others = [] if True else",
        "unless_it_is_alone",
    ),
    Fault(
        "differences to one scene of the base",
        "benchmarks/ablation/tables",
        "values = [r[key].get(name) for r in (rows, base)]",
        "values = [rows[key].get(name), base[min(base)].get(name)]",
        "paired",
    ),
    Fault(
        "intervals of 90 %",
        "benchmarks/ablation/tables",
        "(0.025, 0.975)",
        "(0.05, 0.95)",
        "covers",
    ),
    Fault(
        "the difference of two sets is the base's distance",
        "benchmarks/ablation/tables",
        "return found[0] - (found[1] if",
        "return found[-1] - (0.0 if",
        "distance_of_sets",
    ),
    Fault(
        "the second constant of SSIM is half as large",
        "benchmarks/ablation/measures",
        "0.02**2, 0.06**2",
        "0.02**2, 0.03**2",
        "at_a_pixel",
    ),
    Fault(
        "the background is what the given mask holds",
        "benchmarks/ablation/measures",
        "measures.psnr(image, subject.source, ~subject.mask)",
        "measures.psnr(image, subject.source, subject.mask)",
        "given_mask",
    ),
    Fault(
        "a given mask is not cropped like its picture",
        "benchmarks/ablation/subjects",
        "np.asarray(_middle(mask.resize(size, nearest), side, nearest)) > 0",
        "np.asarray(mask.resize((side, side), nearest)) > 0",
        "given_mask",
    ),
    Fault(
        "another mask is the same experiment",
        "benchmarks/ablation/subjects",
        'for key in ("picture", "mask") if key in line',
        'for key in ("picture",) if key in line',
        "another_sentence",
    ),
    Fault(
        "a run of pixels is one short",
        "benchmarks/ablation/pie_bench",
        "np.add.at(ends, array.sum(1), -1)",
        "np.add.at(ends, array.sum(1) - 1, -1)",
        "pixels_are",
    ),
    Fault(
        "neighbours in a batch change no row's name",
        "benchmarks/ablation/engine",
        'beside = batch.names if variant.options.clamp_over == "batch" else ()',
        "beside = ()",
        "neighbours",
    ),
    Fault(
        "the target is the source's caption",
        "benchmarks/ablation/editing",
        '"target": [s.target for s in subjects]',
        '"target": [s.caption for s in subjects]',
        "without_truth",
    ),
)
