"""The ledger of deviations: what each departure of the public pipeline from the paper costs."""

from ..ablation import Experiment

GUIDED = {"inversion_prompt": "source", "inversion_guidance_scale": 7.5}
SWITCHES = {
    "posterior sample": {"sample_posterior": True, "posterior_per_map": True},
    "mask on the grid": {"mask_on_grid": True},
    "guided mask, embeddings swapped": {"guided_mask": True},
    "clamp over the batch": {"clamp_over": "batch"},
    "timestep of the destination": {"inversion_timestep": "destination"},
    "inversion with the source's text": {"inversion_prompt": "source"},
    "guided inversion": GUIDED,
    "background one level late": {"blend_level": "noisier"},
    "source as negative": {"negative": "source"},
    "steps rounded down": {"round_steps": "down"},
}


def cumulative(switches, label):
    """{label of the number and the last name: all so far}, from two switches to all but one."""
    found, changes = {}, {}
    for count, (name, each) in enumerate(switches.items(), 1):
        changes = {**changes, **each}
        if 1 < count < len(switches):
            found[label.format(count, name)] = changes
    return found


LEDGER = Experiment(
    name="ledger",
    question="What does each departure of the public pipeline from the paper cost?",
    rows={
        **SWITCHES,
        **cumulative(SWITCHES, "the first {}, to {}"),
        **cumulative(dict(reversed(SWITCHES.items())), "the last {}, from {}"),
        "all": {k: v for changes in SWITCHES.values() for k, v in changes.items()},
    },
    measures=("iou", "recognised", "background psnr", "csfid"),
    scenes=100,
)
