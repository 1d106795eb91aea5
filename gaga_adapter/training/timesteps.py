r"""`TruncatedTimesteps`: noise levels for training, drawn in [0, t*] and nowhere else.

Above t* the truncated model has a closed form, and the network is never called there. So training
draws its levels from the law it always used, cut at t*. Over a batch, and over the processes of a
run, they are *stratified*: spread evenly over the law, see `noise/draws.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.distributed import gathered
from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.noise.draws import batch_uniforms
from gaga_adapter.training.densities import Density, OfNormal, Table, Uniform, checked_end
from gaga_adapter.training.importance import LossHistory


class TruncatedTimesteps:
    """A source of noise levels up to t*; one of the class methods makes it.

    With `importance`, levels of large loss are drawn more often, and the mean of
    `weights(t) * loss` estimates what it estimated before:

        t = timesteps.sample(batch_size)
        loss = (timesteps.weights(t) * losses).mean()
        timesteps.update(t, losses)

    Without, the weights are 1 and `update` does nothing.

    Args:
        density: Law of the noise levels, cut at t*.
        stratified: Whether to spread each batch evenly over the law, instead of independent draws.
        importance: Whether to learn from the losses where to draw more often.
        sharded: Whether each process gets its own part of the global batch under
            `torch.distributed`. `False` is for a caller that cuts a global batch itself.
    """

    def __init__(
        self,
        density: Density,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> None:
        self.density = density
        self.stratified, self.sharded = stratified, sharded
        self.history = LossHistory(n_atoms=density.n_atoms) if importance else None

    # -- the laws; the last three arguments are those of the class -------------------------------

    @classmethod
    def uniform(
        cls, t_star: float, stratified: bool = True, importance: bool = False, sharded: bool = True
    ) -> TruncatedTimesteps:
        """Continuous times, uniform in (0, t*]; `t_star` such as `stats.t_star(path)`.

        Raises:
            TruncationError: If `t_star` is outside of (0, 1].
        """
        return cls(Uniform(checked_end(t_star, "t_star", 1.0)), stratified, importance, sharded)

    @classmethod
    def steps(
        cls,
        t_star: int,
        first: int = 0,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> TruncatedTimesteps:
        """Integer steps `first..t_star`, each equally often.

        `t_star` is such as `stats.t_star(scheduler)`; `first` is 0 in diffusers' tables, 1 where
        step 0 has a term of its own.

        Raises:
            TruncationError: If `t_star` is no integer, or below `first`.
        """
        if int(t_star) != t_star or t_star < first:
            raise TruncationError(
                f"t_star={t_star} must be an integer step from {first} on. "
                "Pass stats.t_star(scheduler)."
            )
        table = Table(torch.arange(first, int(t_star) + 1))
        return cls(table, stratified, importance, sharded)

    @classmethod
    def table(
        cls, values: Tensor, stratified: bool = True, importance: bool = False, sharded: bool = True
    ) -> TruncatedTimesteps:
        """The entries of a table, each equally often.

        `values` are timesteps (K,) from data to noise, the last one t*, such as those of
        `GAGAScheduler.training_timesteps()`.

        Raises:
            TruncationError: If the table is empty or not one row.
        """
        if values.ndim != 1 or not len(values):
            raise TruncationError(
                f"a table of timesteps is one row of entries, got {tuple(values.shape)}."
            )
        return cls(Table(values.detach().clone()), stratified, importance, sharded)

    @classmethod
    def log_normal(
        cls,
        sigma_star: float,
        mean: float = -1.2,
        std: float = 1.2,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> TruncatedTimesteps:
        """Noise levels `sigma = b / a`, log-normal (Karras et al. 2022, Table 1), cut at sigma*.

        `sigma_star` is such as `stats.sigma_star`, and infinity cuts nothing; `mean` and `std` are
        those of `ln sigma`.

        Raises:
            TruncationError: If `sigma_star` or `std` is not positive.
        """
        end = checked_end(sigma_star, "sigma_star")
        law = OfNormal(mean, std, end, torch.exp, torch.log)
        return cls(law, stratified, importance, sharded)

    @classmethod
    def logit_normal(
        cls,
        t_star: float,
        mean: float = 0.0,
        std: float = 1.0,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> TruncatedTimesteps:
        """Times of flow matching, logit-normal (Esser et al. 2024, Eq. 19), cut at t*.

        `t_star` is a share of noise such as `stats.t_star(FlowPath())`; `mean` and `std` are those
        of `ln(t / (1 - t))`.

        Raises:
            TruncationError: If `t_star` is outside of (0, 1], or `std` is not positive.
        """
        end = checked_end(t_star, "t_star", 1.0)
        law = OfNormal(mean, std, end, torch.sigmoid, torch.logit)
        return cls(law, stratified, importance, sharded)

    # -- in the loop -----------------------------------------------------------------------------

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Timesteps of one batch.

        Args:
            batch_size: Number of examples B of this process.
            generator: Source of randomness; torch's global one when `None`.
            device: Device of the result; that of the generator, else the CPU, when `None`.

        Returns:
            Timesteps (B,): float32 of a continuous law, the table's own dtype otherwise.

        Raises:
            DataError: If `batch_size` is below 1.
        """
        u = batch_uniforms(batch_size, generator, self.stratified, self.sharded)
        if self.history is not None:
            u = self.history.spread(u)
        t = self.density.quantile(u)
        t = t.to(torch.float32) if self.density.n_atoms is None else t
        return t if device is None else t.to(device)

    def weights(self, timesteps: Tensor) -> Tensor:
        """Importance weights (B,), float32, on the device of the timesteps; 1 without importance.

        Take them before `update`, which changes them.
        """
        if self.history is None:
            return torch.ones(timesteps.shape, device=timesteps.device)
        return self.history.weights(self.density.cdf(timesteps)).float()

    def update(self, timesteps: Tensor, losses: Tensor) -> None:
        """Learn from the unweighted losses of a batch, those of all processes together.

        Args:
            timesteps: Timesteps (B,) as they were drawn.
            losses: Loss of each example (B,).

        Raises:
            DataError: If the shapes differ, or a loss is not finite.
        """
        if losses.shape != timesteps.shape:
            raise DataError(
                f"losses {tuple(losses.shape)} for timesteps {tuple(timesteps.shape)}: "
                "need one loss per example, before any mean over the batch."
            )
        if self.history is None:
            return
        pairs = torch.stack([self.density.cdf(timesteps), losses.detach().double()], -1)
        u, of_all = (gathered(pairs) if self.sharded else pairs).unbind(-1)
        self.history.update(u, of_all)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint; `accelerator.register_for_checkpointing(timesteps)` works."""
        return {} if self.history is None else self.history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: If the checkpoint is of another t* or another law.
        """
        if self.history is not None and state:
            self.history.load_state_dict(state)
