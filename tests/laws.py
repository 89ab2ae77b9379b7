"""Laws of integrators: what any step function has to obey, and what some of them can do besides. No
model is needed.

Your own integrator is checked by

    python -m pytest tests/test_laws.py --integrator package.module:function

with the contract of diffedit_core/integrators.py:

    function(denoise, state, levels, i, j) -> State

    denoise(x, k) -> (x0, eps)   the model's picture and noise for x taken as a latent of level k;
                                 both tensors like x
    state                        `integrators.State`; a trajectory begins with State(x). Whatever
                                 has to be carried from step to step goes into its fields, since
                                 the function is called again with what it returned
    levels                       `schedule.Levels`; levels.alphas[k] is alphas_cumprod at level k,
                                 float64, 0 the cleanest
    i, j                         take the state from level i to its neighbour j: j = i+1 is up to
                                 the noise, j = i-1 down

A multi-step method keeps its past in `history`, a method with two latents the second one in
`coupled`. The smallest one:

    def euler(denoise, state, levels, i, j):
        x0, eps = denoise(state.latents, i)
        return State(schedule.add_noise(x0, eps, levels.alphas[j]))

Your function gets MindSpore tensors, as in a run; ours are checked on numpy arrays, which is
faster, and once more on tensors.

`LAWS` maps a name to a `Law`. Most have to hold for every integrator; the others for those whose
record in the table promises it. A law is a function of the step function and one example, which
hypothesis draws and shrinks, and raises AssertionError.
"""

import math
from typing import Callable, NamedTuple

import mindspore as ms
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from diffedit_core import schedule as S
from diffedit_core import walk
from diffedit_core.integrators import State

from . import strategies as draw


class Law(NamedTuple):
    """A law: the sentence that it states, its examples, and the integrators that must obey it."""

    check: Callable  # (step, example); raises AssertionError
    examples: st.SearchStrategy
    promised: Callable  # (record of the integrators' table) -> why it need not hold, or ""
    cost: int  # of one example; so many times fewer are tried

    @property
    def statement(self):
        return " ".join(self.check.__doc__.split("\n\n")[0].split())


LAWS = {}


def by_all(record):
    """Every integrator has to obey the law."""
    return ""


def usual(record):
    """Those of the table, but for exceptions that tests/test_laws.py lists; yours may differ."""
    return ""


def by_order(least):
    """Those of that order."""
    return lambda record: "" if record.order >= least else f"its order is {record.order}"


def there_and_back_by_order(least):
    """Those of that order or exact."""
    return lambda record: "" if record.exact else by_order(least)(record)


def by_exact(record):
    """Those that are exact."""
    asks = "the way back asks the model at other points, so it returns with an error of order"
    return "" if record.exact else f"{asks} 1/N^{record.order}"


def without_signal(record):
    """Those that need no signal."""
    divides = "its equation divides by the signal that the level has, so it refuses levels without"
    return divides if record.needs_signal else ""


def law(examples, promised=by_all, cost=1):
    """Register a law under its function's name."""

    def register(check):
        LAWS[check.__name__] = Law(check, examples, promised, cost)
        return check

    return register


def counterexample(law, step, shrink=True):
    """None, or (the error, the smallest example that was found; without `shrink` the first)."""
    found, phases = [], (Phase.explicit, Phase.generate, Phase.shrink)

    @settings(
        report_multiple_bugs=False,
        print_blob=False,
        database=None,
        phases=phases if shrink else phases[:2],
        max_examples=-(-settings.default.max_examples // law.cost),
    )
    @given(law.examples)
    def check(example):
        try:
            law.check(step, example)
        except Exception as error:
            found[:] = [(error, example)]  # hypothesis runs the shrunk one last
            raise

    try:
        check()
    except Exception:
        return found[0]
    return None


def in_words(failure):
    """The error and its example, with the corners of long arrays only."""
    error, example = failure
    with np.printoptions(threshold=8, edgeitems=1):
        return " ".join(f"{type(error).__name__}: {error}; {example}".split())


# --- denoisers in closed form ---------------------------------------------------------------------


class Field(NamedTuple):
    """The noise that a model sees, eps(x, a), in closed form; `value` is its one number.

    constant: eps = value. linear: eps = value x. gaussian: exact for pictures x0 ~ N(0, value^2).
        mixture: exact for
    x0 ~ 0.3 N(-1, value^2) + 0.7 N(0.8, value^2). picture: exact where `value` is the only picture
    that there is. network: a random function of x's neighbourhood and of the level, Lipschitz with
    constant `value` in the largest norm.
    """

    name: str
    value: float

    def eps(self, x, alpha):
        """numpy [B,...] in, numpy out; each row by itself."""
        signal, variance = math.sqrt(alpha), alpha * self.value**2 + 1 - alpha
        noise = math.sqrt(1 - alpha)
        if self.name == "constant":
            return np.full_like(x, self.value)
        if self.name == "linear":
            return self.value * x
        if self.name == "gaussian":
            return noise / variance * x
        if self.name == "mixture":
            odds = math.log(0.7 / 0.3) + signal * (1.8 * x + 0.18 * signal) / variance
            return noise / variance * (x + signal - signal * 0.9 * (1 + np.tanh(odds / 2)))
        if self.name == "picture":
            return (x - signal * self.value) / noise
        near = 0.5 * x + 0.3 * np.roll(x, 1, -1) - 0.2 * np.roll(x, 1, -2)
        return np.tanh(self.value * near + 0.7 * signal)

    def denoiser(self, levels, kind="epsilon", asked=None):
        """`denoise` for these levels, as a model with predictions of a kind; appends (k, shape) of
        what is asked to a list."""

        def denoise(x, k):
            if asked is not None:
                asked.append((k, x.shape))
            alpha = levels.alphas[k]
            eps = self.eps(x, alpha)
            if kind == "v_prediction" and alpha > 0:
                eps = (eps - math.sqrt(1 - alpha) * x) / math.sqrt(alpha)
            return S.denoised(np.asarray(eps, x.dtype), x, alpha, kind)

        return denoise


def on_tensors(step):
    """A step function of MindSpore tensors, seen as one of numpy arrays."""

    def convert(value, kind, to):
        if isinstance(value, kind):
            return to(value)
        if isinstance(value, tuple):
            parts = [convert(part, kind, to) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    def stepped(denoise, state, levels, i, j):
        def asked(x, k):
            return tuple(ms.Tensor(part) for part in denoise(x.asnumpy(), k))

        return convert(
            step(asked, convert(state, np.ndarray, ms.Tensor), levels, i, j),
            ms.Tensor,
            ms.Tensor.asnumpy,
        )

    return stepped


def path(alphas):
    """`schedule.Levels` with these alphas; the timesteps only name them."""
    return S.Levels(np.arange(len(alphas)), np.array(alphas, np.float64))


def up(step, denoise, levels, start, top=None):
    """States at levels 0, 1, ... `top`: the loop of an edit, as a list."""
    return list(
        walk.up(step, denoise, levels, start, len(levels.alphas) - 1 if top is None else top)
    )


def down(step, denoise, levels, start, top=None):
    """States at levels `top`, ..., 0: the loop of an edit, as a list."""
    return list(
        walk.down(step, denoise, levels, start, len(levels.alphas) - 1 if top is None else top)
    )


def there_and_back(step, denoise, levels, x):
    """The latents after the whole way up and down again."""
    return down(step, denoise, levels, up(step, denoise, levels, State(x))[-1])[-1].latents


def near(result, wanted, allowed):
    """Assert a difference of at most `allowed`, a number or an array."""
    error = np.abs(np.asarray(result).astype(np.float64) - wanted)
    assert (
        np.isfinite(error).all() and (error <= allowed).all()
    ), f"off by {error.max():.3g}, allowed {np.max(allowed):.3g}"


def one_step_size(x, eps, alpha_from, alpha_to):
    """What a step adds up, without signs: sqrt(b/a) (|x| + sqrt(1-a) |eps|) + sqrt(1-b) |eps|."""
    x, eps = np.abs(np.asarray(x, np.float64)), abs(eps)
    return (
        math.sqrt(alpha_to / alpha_from) * (x + math.sqrt(1 - alpha_from) * eps)
        + math.sqrt(1 - alpha_to) * eps
    )


def reversal_bound(x, eps, a, b):
    """How far rounding may take a step a -> b and back with one eps from x: 16 machine epsilons
    times an amplification.

    A step is sqrt(b) x0 + sqrt(1-b) eps with x0 = (x - sqrt(1-a) eps) / sqrt(a), or the same sorted
    by x and eps. Each term passes at most five roundings of half an epsilon (coefficient, product,
    sum, factor, sum), so that a step errs by 2.5 epsilons of `one_step_size` M(x, a, b). The way
    back multiplies the first step's error by sqrt(a/b) and adds its own, 2.5 epsilons of M(y, b, a)
    with y the latent in between, |y| <= M(x, a, b):

        error <= 2.5 epsilon (sqrt(a/b) M(x, a, b) + M(y, b, a)) <= 5 epsilon A,
        A = sqrt(a/b) M(x, a, b) + M(0, b, a).

    16 leaves a factor of three for methods that compose a step of more operations, such as EDICT's
    mixing. A denormal number is rounded to a multiple s of the smallest one instead: that adds 16 s
    for each step, multiplied by sqrt(a/b) for the first.
    """
    amplification = math.sqrt(a / b) * one_step_size(x, eps, a, b) + one_step_size(0, eps, b, a)
    return 16 * (
        np.finfo(x.dtype).eps * amplification
        + float(np.finfo(x.dtype).smallest_subnormal) * (1 + math.sqrt(a / b))
    )


# --- laws of one step -----------------------------------------------------------------------------


class Step(NamedTuple):
    """An example: two levels, a denoiser, latents."""

    alphas: tuple  # one for each level; the cleanest first
    field: Field
    x: np.ndarray


any_field = st.one_of(
    st.builds(Field, st.just("constant"), st.floats(-2, 2)),
    st.builds(Field, st.just("linear"), st.floats(-0.5, 0.5)),
    st.builds(Field, st.sampled_from(("gaussian", "mixture")), st.floats(0.25, 2)),
    st.builds(Field, st.just("network"), st.floats(0.1, 1)),
)
constant_field = st.builds(Field, st.just("constant"), st.floats(-2, 2))
linear_field = st.builds(Field, st.sampled_from(("linear", "gaussian")), st.floats(0.25, 0.5))
doubles = draw.latents(dtype=np.float64)


@law(st.builds(Step, draw.alphas.map(lambda a: (a, a)), any_field, draw.latents()))
def identity(step, example):
    """A step between two levels with the same alpha changes nothing, in either direction."""
    levels, x = path(example.alphas), example.x
    denoise = example.field.denoiser(levels)
    size = np.abs(np.asarray(x, np.float64)) + np.abs(example.field.eps(x, example.alphas[0]))
    for i, j in ((0, 1), (1, 0)):
        near(step(denoise, State(x), levels, i, j).latents, x, 16 * np.finfo(x.dtype).eps * size)


@law(
    st.builds(
        Step,
        draw.alpha_pairs.map(lambda p: tuple(sorted(p, reverse=True))),
        constant_field,
        draw.latents(dtype=draw.floats_of_all_sizes),
    )
)
def reversal_with_one_eps(step, example):
    """With one eps the step back undoes the step, up to rounding: within 16 x amplification x
    machine epsilon.

    `reversal_bound` derives the amplification.
    """
    levels, x, (clean, noisy) = path(example.alphas), example.x, example.alphas
    denoise = example.field.denoiser(levels)
    for i, j, a, b in ((0, 1, clean, noisy), (1, 0, noisy, clean)):
        back = step(denoise, step(denoise, State(x), levels, i, j), levels, j, i)
        near(back.latents, x, reversal_bound(x, example.field.value, a, b))


# --- laws of a trajectory -------------------------------------------------------------------------


class Trajectory(NamedTuple):
    """An example: the alphas of a path, a denoiser, latents to start with at one of its ends."""

    alphas: tuple
    field: Field
    x: np.ndarray


def trajectories(field=any_field, x=doubles, **limits):
    return st.builds(Trajectory, draw.decreasing_alphas(**limits), field, x)


def relative(result, wanted):
    """The largest difference over the largest value."""
    return np.abs(result - wanted).max() / max(np.abs(wanted).max(), 1e-300)


@law(trajectories(constant_field))
def composition_with_one_eps(step, example):
    """With one eps, a path leads where a single step from its first to its last level leads, in
    both directions."""
    levels, eps = path(example.alphas), example.field.value
    denoise, x = example.field.denoiser(levels), np.clip(example.x, -100, 100)
    for direction, a, b in ((up, 0, -1), (down, -1, 0)):
        a, b = levels.alphas[a], levels.alphas[b]
        wanted = math.sqrt(b / a) * (x - math.sqrt(1 - a) * eps) + math.sqrt(1 - b) * eps
        near(
            direction(step, denoise, levels, State(x))[-1].latents,
            wanted,
            1e-9 * (1 + np.abs(x).max()) / math.sqrt(a),
        )


@law(
    trajectories(st.builds(Field, st.just("picture"), st.floats(-2, 2)), least=0.02, most=0.9),
    promised=usual,
)
def one_picture_is_found(step, example):
    """Where only one picture exists, every path keeps x = sqrt(a) picture + sqrt(1-a) noise with
    the noise it began with."""
    levels = path(example.alphas)
    denoise, noise = example.field.denoiser(levels), np.clip(example.x, -100, 100)
    for direction, a, b in ((up, 0, -1), (down, -1, 0)):
        x, wanted = (
            math.sqrt(levels.alphas[k]) * example.field.value
            + math.sqrt(1 - levels.alphas[k]) * noise
            for k in (a, b)
        )
        near(
            direction(step, denoise, levels, State(x))[-1].latents,
            wanted,
            1e-7 * (1 + np.abs(noise).max()),
        )


@law(st.tuples(trajectories(linear_field), st.integers(-8, 8)))
def scale_equivariance(step, example):
    """With a linear denoiser a power of two comes through a trajectory unchanged, bit for bit."""
    (alphas, field, x), power = example
    levels = path(alphas)
    x = np.where(np.abs(x) < 1e-30, 0.0, x)  # a denormal has no power of two to spare
    for direction in (up, down):
        one, other = (
            direction(step, field.denoiser(levels), levels, State(c * x))[-1].latents
            for c in (1.0, 2.0**power)
        )
        assert np.array_equal(one * 2.0**power, other)


@law(st.tuples(trajectories(linear_field), st.floats(-3, 3), draw.seeds))
def linearity(step, example):
    """With a linear denoiser a trajectory is linear."""
    (alphas, field, x), c, seed = example
    levels = path(alphas)
    y = np.random.default_rng(seed).standard_normal(x.shape) * max(1e-3, np.abs(x).max())
    for direction in (up, down):
        a, b, both = (
            direction(step, field.denoiser(levels), levels, State(z))[-1].latents
            for z in (x, y, c * x + y)
        )
        near(both, c * a + b, 1e-8 * (1e-6 + np.abs(a).max() + np.abs(b).max()))


@law(
    trajectories(
        x=draw.latents(shape=st.sampled_from(((3, 2, 5, 7), (2, 3, 4, 1))), dtype=np.float64)
    )
)
def independence_of_the_batch(step, example):
    """A picture's trajectory is the same alone, in a batch, in a chunk, and from a copy of its
    tensor."""
    levels = path(example.alphas)
    denoise, x = example.field.denoiser(levels), np.clip(example.x, -100, 100)
    for direction in (up, down):
        whole = direction(step, denoise, levels, State(x))[-1].latents
        alone = [direction(step, denoise, levels, State(row[None].copy()))[-1].latents for row in x]
        chunks = [
            direction(step, denoise, levels, State(part.copy()))[-1].latents
            for part in (x[:2], x[2:])
            if len(part)
        ]
        for parts in (alone, chunks):
            near(np.concatenate(parts), whole, 1e-12 * (1 + np.abs(whole).max()))
        assert np.array_equal(direction(step, denoise, levels, State(x.copy()))[-1].latents, whole)


@law(trajectories())
def purity(step, example):
    """The same call gives the same bits, whatever was called in between, and changes neither its
    state nor its levels."""
    levels = path(example.alphas)
    denoise, x = example.field.denoiser(levels), example.x.copy()
    for i, j in ((0, 1), (1, 0)):
        first = step(denoise, State(x), levels, i, j)
        seen = first.latents.copy()
        step(denoise, State(x * 3 + 1), levels, j, i)
        step(denoise, first, levels, j, i)
        assert np.array_equal(step(denoise, State(x), levels, i, j).latents, seen)
        assert np.array_equal(first.latents, seen) and np.array_equal(x, example.x)
        assert np.array_equal(levels.alphas, np.array(example.alphas))


@law(trajectories())
def asks_at_its_own_levels(step, example):
    """A step asks the model at the two levels that it connects, about latents of the shape that it
    was given."""
    levels, asked = path(example.alphas), []
    denoise = example.field.denoiser(levels, asked=asked)
    top = len(example.alphas) - 1
    for direction, sides in (
        (up, [(i, i + 1) for i in range(top)]),
        (down, [(i, i - 1) for i in range(top, 0, -1)]),
    ):
        state = State(example.x)
        for i, j in sides:
            asked.clear()
            state = step(denoise, state, levels, i, j)
            assert {k for k, _ in asked} <= {i, j} and all(
                shape == example.x.shape for _, shape in asked
            ), asked


@law(trajectories(x=draw.latents(dtype=draw.floats_of_all_sizes, extreme=True)))
def keeps_dtype_and_stays_finite(step, example):
    """The result has the dtype and shape of the latents, and is finite for constant, huge, tiny and
    denormal ones."""
    levels = path(example.alphas)
    for direction in (up, down):
        for state in direction(step, example.field.denoiser(levels), levels, State(example.x)):
            values = state.latents
            assert values.dtype == example.x.dtype and values.shape == example.x.shape
            assert np.isfinite(values).all()


@law(trajectories())
def kinds_of_prediction_agree(step, example):
    """A model that predicts eps and one that predicts the v of the same noise lead to the same
    place."""
    levels, x = path(example.alphas), np.clip(example.x, -100, 100)
    for direction in (up, down):
        one, other = (
            direction(step, example.field.denoiser(levels, kind), levels, State(x))[-1].latents
            for kind in draw.PREDICTION_TYPES
        )
        near(one, other, 1e-8 * (1 + np.abs(one).max()))


# --- convergence ----------------------------------------------------------------------------------


COUNTS = (16, 32, 64)


def smooth_path(n, clean=0.1, noisy=4.0):
    """n+1 levels whose tau = sqrt(1/a - 1) grows evenly in its logarithm: halving the steps keeps
    their proportions."""
    tau = np.geomspace(clean, noisy, n + 1)
    return path(1 / (1 + tau**2))


def order(errors, counts=COUNTS):
    """The p with which the errors fall as n^-p, fitted to their logarithms; infinite where the last
    is rounding."""
    if errors[-1] <= 1e-11:
        return math.inf
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def flow_errors(step, field, direction):
    """Relative errors of COUNTS steps against the exact flow of N(0, s^2): x / sqrt(a
    s^2 + 1 - a) is constant.

    The largest over five widths s around the field's, since the error of a single one may pass
    through zero.
    """
    x, errors = np.array([1.7, -0.3, 0.9]).reshape(1, 1, 1, 3), np.zeros(len(COUNTS))
    for field in (
        field._replace(value=field.value * factor) for factor in (0.6, 0.8, 1.0, 1.25, 1.6)
    ):
        for k, levels in enumerate(map(smooth_path, COUNTS)):
            first, last = (levels.alphas[k] for k in ((0, -1) if direction is up else (-1, 0)))
            exact = x * math.sqrt(
                (last * field.value**2 + 1 - last) / (first * field.value**2 + 1 - first)
            )
            errors[k] = max(
                errors[k],
                relative(
                    direction(step, field.denoiser(levels), levels, State(x))[-1].latents, exact
                ),
            )
    return errors.tolist()


gaussian = st.builds(Field, st.just("gaussian"), st.floats(0.3, 0.7))


def converges(step, field, direction, wanted):
    errors = flow_errors(step, field, direction)
    assert (
        order(errors) > wanted - 0.25
    ), f"order {order(errors):.2f}: errors {errors} in {COUNTS} steps"


@law(gaussian, cost=5)
def first_order_down(step, example):
    """On the way down the error against the exact flow of a Gaussian falls at least as 1/N."""
    converges(step, example, down, 1)


@law(gaussian, promised=by_order(1), cost=5)
def first_order_up(step, example):
    """On the way up the error against the exact flow of a Gaussian falls at least as 1/N."""
    converges(step, example, up, 1)


@law(gaussian, promised=by_order(2), cost=5)
def second_order_down(step, example):
    """On the way down the error falls at least as 1/N^2."""
    converges(step, example, down, 2)


@law(gaussian, promised=by_order(2), cost=5)
def second_order_up(step, example):
    """On the way up the error falls at least as 1/N^2."""
    converges(step, example, up, 2)


def round_trip_errors(step, field):
    """Relative errors of COUNTS steps up and as many down."""
    x = np.array([1.7, -0.3, 0.9]).reshape(1, 1, 1, 3)
    fields = [field._replace(value=field.value * factor) for factor in (0.8, 1.0, 1.25)]
    return [
        max(relative(there_and_back(step, f.denoiser(levels), levels, x), x) for f in fields)
        for levels in map(smooth_path, COUNTS)
    ]


flows = st.one_of(gaussian, st.builds(Field, st.just("mixture"), st.floats(0.8, 1.2)))


@law(flows, cost=5)
def round_trip_at_first_order(step, example):
    """The error of encoding and decoding falls at least as 1/N."""
    errors = round_trip_errors(step, example)
    assert order(errors) > 0.75, f"order {order(errors):.2f}: errors {errors} in {COUNTS} steps"


@law(flows, promised=there_and_back_by_order(2), cost=5)
def round_trip_at_second_order(step, example):
    """The error of encoding and decoding falls at least as 1/N^2."""
    errors = round_trip_errors(step, example)
    assert order(errors) > 1.75, f"order {order(errors):.2f}: errors {errors} in {COUNTS} steps"


# --- exact inversion, and the ends of the schedule ------------------------------------------------


contracting = st.builds(Field, st.just("network"), st.floats(0.05, 0.5))


@law(st.builds(Trajectory, draw.grid_alphas(), contracting, doubles), promised=by_exact)
def up_then_down_is_exact(step, example):
    """Up and down again through a nonlinear denoiser gives latents of unit size back to 1e-9,
    larger ones relative to it."""
    levels, x = path(example.alphas), np.clip(example.x, -100, 100)
    back = there_and_back(step, example.field.denoiser(levels), levels, x)
    near(back, x, 1e-9 * (1 + np.abs(x).max()))


@law(st.builds(Trajectory, draw.grid_alphas(most=12), contracting, doubles), promised=by_exact)
def down_then_up_is_exact(step, example):
    """Down and up again through a nonlinear denoiser gives latents of unit size back to 1e-9,
    larger ones relative to it."""
    levels, x = path(example.alphas), np.clip(example.x, -100, 100)
    denoise = example.field.denoiser(levels)
    bottom = down(step, denoise, levels, State(x), len(levels.alphas) - 1)
    back = up(step, denoise, levels, bottom[-1])[-1].latents
    near(back, x, 1e-9 * (1 + np.abs(x).max()))


@law(
    st.builds(Trajectory, draw.zero_snr_alphas(), constant_field, doubles), promised=without_signal
)
def leaves_and_reaches_zero_snr(step, example):
    """A level without signal can be left and reached by a v-prediction, without a division by
    zero."""
    levels = path(example.alphas)
    with np.errstate(divide="raise", invalid="raise"):
        for direction in (up, down):
            for state in direction(
                step, example.field.denoiser(levels, "v_prediction"), levels, State(example.x)
            ):
                assert np.isfinite(state.latents).all()
