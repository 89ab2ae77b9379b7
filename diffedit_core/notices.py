"""What a run warns of."""

import warnings


def empty_mask(source, target, given):
    """Nothing will be edited; `given` says that the mask was."""
    if given:
        reason = "the given mask is empty"
    elif source == target:
        reason = "source and target are the same prompt"
    else:
        reason = "no place differs enough between the prompts (a lower mask_threshold finds more)"
    shown = target if isinstance(target, str) else ", ".join(map(str, target))
    warnings.warn(
        f"Nothing to edit for {shown!r}: {reason}; the picture is returned unchanged.", stacklevel=4
    )


def unsolved(states):
    """Steps of an iterated inversion that ended above their tolerance."""
    notes = [state.note for state in states if state.note is not None]
    stopped = [note for note in notes if not note.converged]
    if stopped:
        warnings.warn(
            f"The fixed-point inversion did not converge in {len(stopped)} of {len(notes)} steps: "
            f"corrections of up to {max(n.residual for n in stopped):.1e} of the latents are left, "
            f"with ratios of up to {max(n.contraction for n in stopped):.2f} from one to the next "
            "(1 and more does not contract). Decoding will not lead back exactly: lower "
            "inversion_guidance_scale, take more steps, or use integrator edict.",
            stacklevel=4,
        )
