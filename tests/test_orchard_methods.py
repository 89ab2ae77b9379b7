"""The Orchard's methods, a batch at a time, against `edit.edit`, and what each of them keeps."""

import math

import numpy as np
import pytest

from benchmarks.orchard import data, methods
from benchmarks.orchard import world as W
from diffedit_core import schedule
from diffedit_core.draws import draws
from diffedit_core.edit import edit
from diffedit_core.options import RECIPES

from .closed_forms import OBJECT, FakeModel
from .orchard_fakes import CHANGES, Held, Speaker, measured, pictures, run, small_cases


def test_cases_are_test_scenes_with_their_truth():
    for i, case in enumerate(methods.cases(6)):
        assert case.kind == W.EDITS[i % 3] and case.scene.seed in W.SEEDS["test"]
        before, after = data.to_pixels(np.stack([case.source, case.truth]))
        assert np.array_equal(before, W.render(case.scene)[0]) and np.array_equal(
            after, W.render(case.edited)[0]
        )
        assert np.array_equal(case.mask, W.true_mask(before, after)) and case.mask.any()


def test_sampling_is_ddim_from_the_last_level():
    """With the predictor that knows the picture, any noise ends at the picture, up to the clean
    level's a(0)."""
    levels = schedule.levels(FakeModel().configs.scheduler, 10)
    wanted = pictures(1, 3, 5, 7)

    def field(x, timestep, state):
        a = levels.alphas[list(levels.timesteps).index(timestep, 1)]
        return (x - math.sqrt(a) * wanted) / math.sqrt(1 - a)

    model = Speaker(field)
    model.configs.latent_channels = 3
    model.decode_latents = lambda latents: latents.asnumpy()
    options = RECIPES["paper"].replace(num_inference_steps=10)
    found = methods.samples(model, ["a pear", "an apple"], [1, 2], options, (5, 7))
    scale = math.sqrt(levels.alphas[0])
    assert found.shape == (2, 3, 5, 7)
    assert np.abs(found - scale * wanted).max() < 0.1 and np.abs(found - wanted).max() < 0.1


@pytest.mark.parametrize(
    "name", ["DiffEdit", "recipe smooth", "recipe smooth-32", "recipe diffusers"]
)
def test_a_batch_gives_what_each_edit_alone_gives(name):
    """Also of the public pipeline, in which every picture is a batch of its own."""
    batch, method = small_cases(), methods.METHODS[name]
    options = RECIPES[method.recipe].replace(**CHANGES, background="decoded")
    found = run(name, batch)
    for i, case in enumerate(batch):
        source = W.caption(case.scene)
        drawn = draws(options, [case.scene.seed], (3, 6, 8))
        negative = source if name == "recipe diffusers" else ""
        targets = [W.caption(case.edited)]
        alone = edit(Held(), case.source[None], source, targets, options, drawn, negative=negative)[
            0
        ]
        np.testing.assert_allclose(found.images[i], alone.image[0], atol=1e-5)
        assert np.array_equal(found.masks[i], alone.mask[0]) and found.masks[i].any()
        np.testing.assert_allclose(found.noise_maps[i], alone.noise_map[0], atol=1e-6)


def test_what_each_alternative_keeps():
    """Outside the mask the masked ones give the round trip back; SDEdit and encode-decode may
    change everything."""
    batch = small_cases()
    trip = Speaker().decode_latents(
        Speaker().latents(Speaker().encode_image(np.stack([c.source for c in batch])))
    )
    outside = np.kron(OBJECT, np.ones((2, 2))) == 0
    for name in ("DiffEdit", "mask without encoding"):
        found = run(name, batch)
        assert np.array_equal(found.images[..., outside], trip[..., outside])
        assert np.abs(found.images - trip)[..., ~outside].min() > 1e-4
    for name in ("SDEdit", "encode-decode"):
        found = run(name, batch)
        assert found.masks is None and (found.images != trip).mean() > 0.9
    assert np.array_equal(run("copy", batch).images, np.stack([c.source for c in batch]))
    assert not np.allclose(
        run("SDEdit", batch).images, run("encode-decode", batch).images, atol=1e-2
    )


def test_methods_of_a_batch_share_their_work(tmp_path):
    """The same numbers, with fewer evaluations: the second takes the first one's maps and
    trail."""
    (tmp_path / "all").mkdir()
    names, rows, alone = ["DiffEdit", "recipe smooth", "encode-decode", "SDEdit"], [], []

    class Counting(Held):
        def predict(self, x, timestep, states):
            rows.append(x.shape[0])
            return super().predict(x, timestep, states)

    together = measured(tmp_path / "all", names, 2, model=Counting())
    shared, rows[:] = sum(rows), []
    for name in names:
        (tmp_path / name).mkdir()
        alone += measured(tmp_path / name, [name], 2, model=Counting())
    for one, other in zip(together, alone):
        np.testing.assert_equal(one.records, other.records)
    assert shared < 0.8 * sum(rows)
