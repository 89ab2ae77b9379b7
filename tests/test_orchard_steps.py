"""The Orchard's training steps: one against numpy, the loop, resuming, checkpoints."""

import math
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.orchard import steps as stepping
from diffedit_core import kernels as K, params as P
from diffedit_core.errors import InputError

TREE = {"a": P.linear(3, 4), "b": P.linear(4, 2)}
TOTAL, PEAK = 20, 0.05


def weights(seed=0, specs=TREE):
    rng = np.random.default_rng(seed)
    return P.tree_map(lambda _, leaf: rng.standard_normal(leaf.shape).astype(np.float32), specs)


def loss(params, x, y, kernels):
    error = K.linear(params["b"], K.linear(params["a"], x, kernels), kernels) - y
    return (error * error).mean()


def batch(step):
    rng = np.random.default_rng([7, step])
    return rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((5, 2)).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def compiled():
    """One compiled step for all tests of this file, and the state that it starts from."""
    train_step = stepping.TrainStep(loss, P.to_parameters(weights()), "cpu")
    return train_step, train_step.arrays()


@pytest.fixture
def fresh(compiled):
    train_step, start = compiled
    train_step.restore(start)
    return train_step


def run(train_step, path, steps=TOTAL, until_step=None, batch=batch, **more):
    """The loop, ended by SIGTERM during step `until_step`, as a machine that shuts down would."""

    def stopping(step):
        if step == until_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(step)

    return stepping.run(
        train_step, stopping, path, {"seed": 7}, steps, PEAK, log=lambda line: None, **more
    )


def adamw(tree, history):
    """(params, ema) after the steps of `history`, each (step, gradients), in float64 (Loshchilov &
    Hutter 2019, algorithm 2)."""
    flat = {path: leaf.astype(np.float64) for path, leaf in P.flatten(tree).items()}
    first, second = [{path: np.zeros(leaf.shape) for path, leaf in flat.items()} for _ in range(2)]
    ema = dict(flat)
    for step, gradients in history:
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        rate = (
            PEAK
            * min(1, (step + 1) / 200)
            * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * step / TOTAL)))
        )
        for path, g in gradients.items():
            g = g / max(norm, 1)
            first[path] = 0.9 * first[path] + 0.1 * g
            second[path] = 0.99 * second[path] + 0.01 * g**2
            mean, square = first[path] / (1 - 0.9 ** (step + 1)), second[path] / (
                1 - 0.99 ** (step + 1)
            )
            decay = (
                rate
                * math.sqrt(1 - 0.99 ** (step + 1))
                / (1 - 0.9 ** (step + 1))
                * 0.01
                * flat[path]
            )
            flat[path] = flat[path] - rate * mean / np.sqrt(square) - decay
            ema[path] = ema[path] + (1 - min(0.999, (1 + step) / (10 + step))) * (
                flat[path] - ema[path]
            )
        yield {path: leaf.copy() for path, leaf in flat.items()}, dict(ema)


def gradients(flat, x, y):
    """Of the two linear layers, by hand."""
    h = x @ flat["a.weight"].T + flat["a.bias"]
    d = 2 * (h @ flat["b.weight"].T + flat["b.bias"] - y) / y.size
    back = d @ flat["b.weight"]
    return {"a.weight": back.T @ x, "a.bias": back.sum(0), "b.weight": d.T @ h, "b.bias": d.sum(0)}


def test_a_step_is_adamw_on_clipped_gradients(fresh):
    """Six steps against float64: weights, average and the gradient's norm."""
    flat = {path: leaf.astype(np.float64) for path, leaf in P.flatten(weights()).items()}
    history = []
    for step in range(6):
        wanted = gradients(flat, *batch(step))
        _, norm = fresh(stepping.rates(step, TOTAL, PEAK), *batch(step))
        assert norm == pytest.approx(
            math.sqrt(sum((g**2).sum() for g in wanted.values())), rel=1e-4
        )
        history.append((step, wanted))
        *_, (flat, ema) = adamw(weights(), history)
        found = fresh.arrays()
        for path in flat:
            np.testing.assert_allclose(
                found["params." + path], flat[path], rtol=1e-4, atol=1e-5, err_msg=path
            )
            np.testing.assert_allclose(
                found["ema." + path], ema[path], rtol=1e-4, atol=1e-5, err_msg=path
            )


def test_frozen_leaves_stay_and_the_others_learn():
    train_step = stepping.TrainStep(loss, P.to_parameters(weights()), "cpu", frozen=("a.",))
    before = train_step.arrays()
    assert not any(name.startswith(("first.a", "second.a", "ema.a")) for name in before)
    train_step(stepping.rates(0, TOTAL, PEAK), *batch(0))
    after = train_step.arrays()
    for name in before:
        assert np.array_equal(before[name], after[name]) == name.startswith("params.a"), name
    assert np.array_equal(
        P.flatten(train_step.average())["a.weight"].asnumpy(), before["params.a.weight"]
    )


@given(st.integers(0, 5000), st.integers(1, 5000), st.floats(1e-5, 1e-2))
def test_rates_stay_between_zero_and_the_peak(step, total, peak):
    rate, forget = stepping.rates(step, total, peak)
    correction = math.sqrt(1 - stepping.BETAS[1] ** (step + 1)) / (
        1 - stepping.BETAS[0] ** (step + 1)
    )
    assert 0 < rate <= peak * correction * (1 + 1e-6)
    assert 1 - stepping.EMA_DECAY - 1e-6 <= forget <= 0.9 + 1e-6


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(fresh, compiled, tmp_path):
    whole = run(fresh, tmp_path / "whole.safetensors")
    expected = fresh.arrays()
    fresh.restore(compiled[1])
    losses = []
    for stop in (3, 4, 11, None):
        losses += run(fresh, tmp_path / "parts.safetensors", until_step=stop)
        fresh.restore(compiled[1])  # a new process knows nothing
    assert losses == whole and len(whole) == TOTAL
    run(fresh, tmp_path / "parts.safetensors")
    found = fresh.arrays()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert stepping.read_weights(tmp_path / "parts.safetensors")[0].step == TOTAL


def test_two_runs_of_one_seed_give_the_same_losses(fresh, compiled, tmp_path):
    first = run(fresh, tmp_path / "1.safetensors")
    fresh.restore(compiled[1])
    assert run(fresh, tmp_path / "2.safetensors") == first and len(set(first)) == TOTAL


@pytest.mark.parametrize("place", ["before writing", "half written", "before renaming"])
def test_a_process_killed_while_saving_leaves_the_last_checkpoint(
    fresh, tmp_path, monkeypatch, place
):
    """What a kill can interrupt: nothing of the new file, a part of it, all of it under its
    temporary name."""
    path = tmp_path / "c.safetensors"
    run(fresh, path, until_step=5)
    good = path.read_bytes()

    class Killed(BaseException):
        pass

    def save_file(arrays, name, metadata):
        if place != "before writing":
            with open(name, "wb") as handle:
                handle.write(good if place == "before renaming" else good[: len(good) // 2])
        if place != "before renaming":
            raise Killed

    def replace(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stepping, "save_file", save_file)
        patch.setattr(stepping.os, "replace", replace)
        with pytest.raises(Killed):
            run(fresh, path)
    assert path.read_bytes() == good
    assert stepping.read_weights(path)[0].step == 6
    assert len(run(fresh, path)) == TOTAL - 6


def test_a_checkpoint_of_another_run_is_refused(fresh, tmp_path):
    path = tmp_path / "c.safetensors"
    run(fresh, path, steps=1)
    with pytest.raises(InputError, match="another seed"):
        stepping.load_checkpoint(path, fresh, {"seed": 8})
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="c.safetensors"):
        stepping.read_weights(path)


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(fresh, tmp_path):
    path = tmp_path / "c.safetensors"
    run(fresh, path, until_step=2)
    with pytest.raises(InputError, match="step 5"):
        run(
            fresh,
            path,
            batch=lambda step: tuple(x * (np.nan if step == 5 else 1) for x in batch(step)),
        )
    assert stepping.read_weights(path)[0].step == 3


def test_the_handlers_of_signals_come_back(fresh, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(fresh, tmp_path / "c.safetensors", until_step=0)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("threads", (0, 3))
def test_batches_drawn_ahead_come_in_their_order(threads):
    """Those of later steps may be ready before; what a step raises is raised at its turn."""

    def slow(step):
        time.sleep(0.02 * (step % 3 == 0))
        return 1 / (step - 9)

    batches = stepping.ahead(slow, 2, 12, threads)
    assert [next(batches) for _ in range(7)] == [1 / (step - 9) for step in range(2, 9)]
    with pytest.raises(ZeroDivisionError):
        next(batches)
