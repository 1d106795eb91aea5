"""ChemGuide by structure (github.com/A-Chicharito-S/ChemGuide): a GeoLDM with guided samplers.

The samplers of `cond_en_diffusion_xtb.py` count the same steps down as `sample` does. Guidance
counts its steps from the data (`guidance_steps`, `every_n_step`, `check_variants_interval`), so it
means while the model is patched what it meant before; the steps beyond t* are not there any more.
The classes of `en_diffusion.py` are GeoLDM's, and are recognised as such.
"""

from ..geoldm import GeoLDM


class ChemGuide(GeoLDM):
    """`EnLatentDiffusion` with `cond_sample`."""

    name = "chemguide"
    methods = ("cond_sample(guidance_kwargs)",)
    starts = (
        *(*GeoLDM.starts, "cond_sample", "cond_sample_evolutionary"),
        *("cond_sample_bilevel_noisy", "cond_sample_bilevel_clean"),
    )
