"""Structure predictors, whose one target per input is told by a condition: Boltz, Chai-1.

They diffuse positions in angstrom, `x = x_0 + sigma eps`, from sigmas of thousands of angstrom. No
statistics of a data set apply, but `RigidTarget` says from which sigma* on the target cannot be
told from noise. The patch shortens their list of sigmas there:

    from boltz.model.modules.diffusionv2 import AtomDiffusion

    target = RigidTarget.from_size(n_atoms=2000, radius_of_gyration=18.0)
    with patched(AtomDiffusion, sigma_star=target.sigma_star()):
        ...    # their own run, in fewer network calls
"""

from __future__ import annotations

from .patch import ScheduleHandle, apply_patch, patched, remove_patch

__all__ = ["ScheduleHandle", "apply_patch", "patched", "remove_patch"]
