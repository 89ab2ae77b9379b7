"""The paper's claims, where the truth is known (DiffEdit, sections 4 and 5)."""

from diffedit_core.parts import everywhere, noised

from ..ablation import Experiment

ALL = ("iou", "recognised", "background psnr", "csfid")
CURVE = ("recognised", "background psnr", "edit psnr")

THRESHOLD = Experiment(
    name="threshold",
    question="Is 0.5 the best threshold of the mask?",
    vary={"mask_threshold": (0.25, 0.5, 0.75)},
    measures=ALL,
    scenes=100,
)

RATIO = Experiment(
    name="ratio",
    question="How deep should the inversion go?",
    vary={"encode_ratio": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)},
    measures=CURVE,
    scenes=36,
)

COMPONENTS = Experiment(
    name="components",
    question="Do mask and encoding each help, and most together, at every ratio?",
    vary={
        "encode_ratio": (0.4, 0.6, 0.8, 1.0),
        "to_mask": {"mask": None, "no mask": everywhere},
        "trail": {"encoded": None, "noised": noised},
    },
    measures=CURVE,
    scenes=36,
)

REFERENCE = Experiment(
    name="reference",
    question="Does the source's text beat the empty one as the reference of the mask?",
    vary={"source": ("source", "")},
    measures=ALL,
    scenes=100,
)

GUIDANCE = Experiment(
    name="guidance",
    question="How much guidance does the decoding want?",
    vary={"guidance_scale": (1.0, 3.0, 5.0, 7.5, 10.0)},
    measures=CURVE,
    scenes=36,
)

STEPS = Experiment(
    name="steps",
    question="How many steps are enough?",
    vary={"num_inference_steps": (10, 20, 30, 50, 100)},
    measures=CURVE,
    scenes=36,
)
