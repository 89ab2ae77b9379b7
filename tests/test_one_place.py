"""A row of a table is all that a new integrator needs, and a function all that a new mask rule
does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
REGISTER = """
from diffedit_core import schedule
from diffedit_core.integrators import INTEGRATORS, Integrator, State


def toy(denoise, state, levels, i, j):
    x0, eps = denoise(state.latents, i)
    eps = denoise(schedule.add_noise(x0, eps, levels.alphas[j]), j)[1]
    return State(schedule.ddim_step(state.latents, eps, levels.alphas[i], levels.alphas[j]))


INTEGRATORS["toy"] = Integrator(
    toy, toy, "a test's", evaluations=lambda k: (2 * k, 2 * k), needs_signal=True
)
"""


def python(text, *arguments, folder):
    """Run a program that registers the toy first."""
    file = folder / "program.py"
    file.write_text(REGISTER + text, encoding="utf-8")
    command = [sys.executable, str(file), *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "GLOG_v": "3", "HYPOTHESIS_PROFILE": "faults"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a program sees that did nothing but register the toy."""
    text = """
import json, subprocess
from benchmarks import integrators as benchmark
from diffedit_core.arguments import parser
from diffedit_core.options import Options
from diffedit_core.plan import plan
from tests.strategies import SD21

choices, = [a.choices for a in parser()._subparsers._group_actions[0].choices["edit"]._actions
            if a.dest == "integrator"]
costs = plan(Options(integrator="toy", num_inference_steps=10), SD21)
print(json.dumps({
    "choices": list(choices),
    "evaluations": [costs.inversion_evaluations, costs.decode_evaluations],
    "benchmark": list(benchmark.parser().parse_args([]).integrators),
}))
"""
    import json

    return json.loads(python(text, folder=tmp_path_factory.mktemp("toy")).splitlines()[-1])


def test_the_command_line_offers_a_registered_integrator(found):
    assert found["choices"][-1] == "toy"


def test_the_plan_counts_what_its_record_says(found):
    """K = 8 steps, two calls each, twice the rows with guidance on the way down."""
    assert found["evaluations"] == [16, 32]


def test_the_benchmark_lists_it(found):
    assert found["benchmark"][-1] == "toy"


def test_every_law_is_run_on_it(tmp_path):
    """The table at the end has a column of its own; the laws that its record promises hold."""
    text = """
import pytest, sys
sys.exit(pytest.main(["tests/test_laws.py", "-q", "-p", "no:cacheprovider",
                      "-k", "test_law and toy and (identity or linearity or first_order_down)"]))
"""
    lines = python(text, folder=tmp_path).splitlines()
    assert any(line.split() == ["law", "toy"] for line in lines)
    assert [line.split() for line in lines if line.startswith(("identity ", "linearity "))] == [
        ["identity", "holds"],
        ["linearity", "holds"],
    ]


def test_a_mask_rule_is_a_function_given_to_the_edit():
    """Nothing of the core is touched: `Parts` takes it, and the edit's mask is what it says."""
    import mindspore as ms

    from diffedit_core.edit import edit
    from diffedit_core.draws import draws
    from diffedit_core.options import RECIPES
    from diffedit_core.parts import Parts

    from .closed_forms import FakeModel, picture

    def half(noise_map):
        """The half of the cells that differ most."""
        values = noise_map.asnumpy()
        middle = np.median(values, (1, 2), keepdims=True)
        return ms.Tensor((values > middle).astype(np.float32))

    options = RECIPES["paper"].replace(num_inference_steps=4, num_maps=2)
    parts = Parts.of(options)._replace(to_mask=half)
    model = FakeModel(lambda x, timestep, state: x * 0.125 + state * x)
    found = edit(
        model, picture(), "source", ["a"], options, draws(options, [0], (3, 6, 8)), parts=parts
    )[0]
    assert found.mask.sum() == found.mask.size / 2
    assert np.array_equal(found.mask, half(ms.Tensor(found.noise_map)).asnumpy())
