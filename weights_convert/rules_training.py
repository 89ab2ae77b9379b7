"""What trainers keep beside the weights: tensors at these paths are no part of a model."""

from .engine import Drop

DROPS = (
    Drop(
        r"(optimizer|lr_scheduler|scheduler)(s|_states?|_state_dict)?\..*", "the optimiser's state"
    ),
    Drop(r"callbacks\..*", "the state of the trainer's callbacks"),
    Drop(
        r"(loops|hyper_parameters|hparams|datamodule.*|native_amp_scaling_state|amp_scaling_state"
        r"|grad_scaler|scaler|MixedPrecision\w*)\..*",
        "the trainer's progress and settings",
    ),
    Drop(r"(rng_states?|random_states?|cuda_rng_state\w*)(\..*)?", "states of random generators"),
    Drop(r"(epoch|global_step|step|iteration|best_\w+)", "counters of the training"),
)
