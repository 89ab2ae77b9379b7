"""The comparison of integrators: a batch against its pictures one by one, tables, and going on."""

import numpy as np
import pytest

from benchmarks import integrators
from benchmarks.orchard import classifier as C, methods

from .orchard_fakes import OPTIONS, Held, run, small_cases


@pytest.mark.parametrize("name", ["ddim", "belm", "anderson"])
def test_integrators_in_a_batch_give_what_each_picture_alone_gives(name):
    """Errors and edits; the counts of an iterated inversion are those of the slowest picture."""
    cases, options = small_cases(), OPTIONS.replace(integrator=name)

    def judge(images):
        return None, np.zeros((len(images), len(C.HEADS)), int)

    def measured(part):
        batch = integrators.Batch.of(Held(), part)
        found = run("DiffEdit", part).masks
        return (
            integrators.round_trips(batch, options, 1.0),
            integrators.round_trips(batch, options, 7.5),
            list(integrators.edits(batch, options, found, judge)),
        )

    together, alone = measured(cases), [measured([case]) for case in cases]
    for i, one in enumerate(alone):
        for rows, own in zip(together, one):
            for key in {"error", "background", "target"} & set(own[0]):
                assert rows[i][key] == pytest.approx(own[0][key], rel=1e-3, abs=1e-6)
            if "up" in own[0]:
                assert rows[i]["up"] >= own[0]["up"] and rows[i]["down"] == own[0]["down"]
    steps = options.num_encode_steps
    plain, guided = alone[0][0][0]["down"], alone[0][1][0]["down"]
    assert plain == (steps - 1 if name == "belm" else steps) and guided == 2 * plain


def test_tables_of_integrators():
    """Means of the rows that belong together, fewest steps first, integrators in their order, each
    guidance on its own line."""
    rows = [
        dict(
            zip(integrators.KEY, (seed, integrator, steps, what, guidance, "fp32", "m")),
            error=0.01 * (seed + guidance),
            deviation=guidance,
            up=4 * guidance,
            down=5,
            background=float(seed),
            target=2.0,
            recognised=seed == 1,
        )
        for seed in (1, 3)
        for integrator in ("belm", "ddim")
        for steps in (20, 10)
        for what, guidance in (
            ("round trip", 1.0),
            ("round trip", 7.5),
            ("edit", 7.5),
            ("edit", 3.0),
        )
    ]
    trips, edited = "\n".join(integrators.tables(rows)).split("\n\n")
    trips, edited = [
        [line.strip("| ").split(" | ") for line in part.split("\n")][2:] for part in (trips, edited)
    ]
    assert [(row[0], row[2]) for row in trips] == [
        ("ddim", "10"),
        ("belm", "10"),
        ("ddim", "20"),
        ("belm", "20"),
    ]
    assert trips[0][3:] == [
        "3.0e-02 (4.0e-02)",
        "9.5e-02 (1.0e-01)",
        "4 + 5",
        "15",
        "-",
        "1.00 / 7.50",
        "2, 2",
    ]
    assert [row[0] + row[3] for row in edited[:4]] == ["ddim3", "belm3", "ddim7.5", "belm7.5"]
    assert edited[0][4:] == ["2.00", "2.0", "0.50", "2"]


def test_integrators_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    """A second run measures only what is new, and the file has each row once."""
    asked = []

    def row(kind):
        def measured(batch, *_):
            asked.append(kind)
            return [{} for _ in batch]

        return measured

    monkeypatch.setattr(integrators.Model, "load", lambda *_: None)
    monkeypatch.setattr(integrators.judges.Classifier, "load", lambda *_: None)
    monkeypatch.setattr(integrators.methods, "model_name", lambda *_: "m")
    monkeypatch.setattr(integrators.Batch, "of", lambda model, cases: cases)
    outcome = methods.Outcome(None, np.zeros(1), None)
    monkeypatch.setattr(integrators.methods, "run", lambda *_, **__: outcome)
    monkeypatch.setattr(integrators, "round_trips", row("round trip"))
    monkeypatch.setattr(integrators, "edits", lambda *a: row("edit")(a[0]))
    out = tmp_path / "rows.jsonl"
    words = [
        "--out",
        str(out),
        "--batch",
        "2",
        "--integrators",
        "ddim",
        "--steps",
        "10",
        "--pictures",
    ]
    for pictures, guidance, calls in (
        ("2", "7.5", 3),
        ("3", "7.5", 3),
        ("3", "7.5", 0),
        ("3", "3", 2),
    ):
        asked.clear()
        integrators.measure(
            integrators.parser().parse_args([*words, pictures, "--edit-guidance", guidance])
        )
        assert len(asked) == calls
    rows = integrators.read(out)
    assert len(rows) == len(set(map(integrators.key, rows))) == 3 * 4
    for more, count in (
        ((), 3 * 3),
        (("--edit-guidance", "3", "7.5"), 3 * 4),
        (("--pictures", "1"), 3),
        (("--dtype", "fp16"), 0),
        (("--integrators", "edict"), 0),
        (("--steps", "20"), 0),
    ):
        assert len(integrators.selected(rows, integrators.parser().parse_args(more), "m")) == count
    assert not integrators.selected(rows, integrators.parser().parse_args([]), "another model")
