"""Fit the statistics of what a model diffuses, from the loader that trains it.

A model may normalise, encode and add noise before it diffuses, and only it knows how. So its
adapter carries every batch of its own loader there: for EDM the normalised positions, one-hots and
charges; for GeoLDM a draw from the autoencoder's latent, `mean + sigma_0 eps`, as its loss sees it.
Load the weights first: a latent that was fitted before is refused later, as another model's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.criteria import Criterion
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError
from gaga_adapter.fitting import DEFAULT_LOG_SNR, fit
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.stats import GAGAStats

from ..protocol import Model, adapter_for
from .patch import bare
from .subclass import original_class

Context = Callable[[Any], Tensor]


def fit_from(
    model: Model,
    loader: Iterable[Any],
    elements: tuple[str, ...] | None = None,
    context: Context | None = None,
    criterion: str | Criterion = "two_sample",
    reference: str = "auto",
    tolerance: float | None = None,
    log_snr: Iterable[float] = DEFAULT_LOG_SNR,
    n_criterion: int = 4000,
    by_size: bool = False,
    n_bootstrap: int = 400,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> GAGAStats:
    """Fit statistics for a model, in the space that it diffuses.

    Torch's global random state is as it was afterwards, although loaders shuffle with it.

    Args:
        model: Model with its weights, patched or not.
        loader: The loader that trains the model: batches in the codebase's own form.
        elements: Symbols of the one-hot channels in their order; read from the loader when `None`.
        context: Function that makes the context of a batch (B, N, C) for an encoder that takes
            one; EDM needs none.
        criterion: Criterion of Gaussianity, as in `gaga_adapter.fit`, like everything that follows.
        reference: Kind of the closed-form start that is judged.
        tolerance: Nats that may remain at t*, or the least p-value.
        log_snr: Levels at which the curve is drawn.
        n_criterion: Size of the sample that the criterion sees.
        by_size: Whether to choose a t* for molecules of every size, too.
        n_bootstrap: Number of resamples for the interval of t*; 0 for none.
        seed: Seed of the sample, the criterion and the noise of a latent.
        provenance: Facts to record about the data.
        progress: Function that is called with (what, done, total).

    Returns:
        The artefact, for `apply_patch`.

    Raises:
        UnsupportedModelError: If no adapter recognises the model, or its adapter knows no loader.
        DataError: If the loader is empty, a batch has another form, an element is not one of the
            model's, or there are too few molecules for the criterion.
        StatsMismatchError: If the elements are not those of the model.
        TruncationError: If the criterion never comes within the tolerance.
    """
    model = bare(model)
    adapter = adapter_for(model)
    if elements is None:
        elements = adapter.elements(loader)
    layout = adapter.layout(model, elements)
    if elements is None and isinstance(layout, MoleculeLayout):
        raise DataError(
            f"neither the loader nor {original_class(type(model)).__name__} knows which elements "
            "the one-hot channels are. Pass elements=('H', 'C', ...) in their order."
        )
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        batch = None
        for batch in loader:
            with torch.no_grad():
                condition = None if context is None else context(batch)
                yield adapter.diffused(model, batch, condition, generator)
        if batch is None:
            raise DataError(
                "the loader is empty. Pass the one that trains the model; an iterator is used up "
                "after one pass."
            )

    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return fit(
            batches(),
            layout,
            criterion=criterion,
            reference=reference,
            tolerance=tolerance,
            log_snr=log_snr,
            n_criterion=n_criterion,
            by_size=by_size,
            n_bootstrap=n_bootstrap,
            seed=seed,
            provenance={**(provenance or {}), **adapter.provenance(model)},
            progress=progress,
        )
