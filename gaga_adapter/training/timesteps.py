r"""`TruncatedTimesteps`: noise levels for training, drawn in [0, t*] and nowhere else.

Above t* the truncated model has a closed form, and the network is never called there. So training
draws its levels from the law it always used, cut at t*. Over a batch they are *stratified*: one
random offset, then equal steps through the law (Kingma et al. 2021, appendix I.1),

    u_i = frac(u + i / B),

which leaves every t_i its law and takes most of the variance out of the batch mean. Under
`torch.distributed` the processes share one global batch: process r of W takes
`frac(u + (i + r / W) / B)`, so that they never draw the same timesteps, whether their generators
agree or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.distributed import gathered, n_processes, process_index
from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.reference.base import workspace
from gaga_adapter.training.densities import (
    Density,
    LogitNormal,
    LogNormal,
    Table,
    Uniform,
    checked_end,
    checked_std,
)
from gaga_adapter.training.importance import LossHistory


class TruncatedTimesteps:
    """Draws noise levels up to t*; made by one of the class methods.

    With `importance`, levels of large loss are drawn more often, and the mean of
    `weights(t) * loss` estimates what it estimated before:

        t = timesteps.sample(batch_size)
        loss = (timesteps.weights(t) * losses).mean()
        timesteps.update(t, losses)

    Without, the weights are 1 and `update` does nothing.

    Args:
        density: the law, cut at t*.
        stratified: spread each batch evenly over the law, instead of independent draws.
        importance: learn from the losses where to draw more often.
        sharded: under `torch.distributed` each process gets its own part of the global batch.
            `False` where the caller cuts a global batch itself.
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

    # -- the laws --------------------------------------------------------------------------------

    @classmethod
    def uniform(
        cls,
        t_star: float,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> TruncatedTimesteps:
        """Continuous times, uniform in (0, t*].

        Args:
            t_star: in (0, 1], such as `stats.t_star(path)`.
            stratified: see the class.
            importance: see the class.
            sharded: see the class.

        Raises:
            TruncationError: `t_star` is outside of (0, 1].
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

        Args:
            t_star: the last step, included, such as `stats.t_star(scheduler)`.
            first: the first step: 0 in diffusers' tables, 1 where step 0 has a term of its own.
            stratified: see the class.
            importance: see the class.
            sharded: see the class.

        Raises:
            TruncationError: `t_star` is no integer, or below `first`.
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
        cls,
        values: Tensor,
        stratified: bool = True,
        importance: bool = False,
        sharded: bool = True,
    ) -> TruncatedTimesteps:
        """The entries of a table, each equally often.

        Args:
            values: timesteps (K,), from data to noise, the last one t*: what
                `GAGAScheduler.training_timesteps()` returns.
            stratified: see the class.
            importance: see the class.
            sharded: see the class.

        Raises:
            TruncationError: the table is empty.
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

        Args:
            sigma_star: `stats.sigma_star`; infinity cuts nothing.
            mean: of `ln sigma`.
            std: of `ln sigma`.
            stratified: see the class.
            importance: see the class.
            sharded: see the class.

        Raises:
            TruncationError: `sigma_star` or `std` is not positive.
        """
        end = checked_end(sigma_star, "sigma_star")
        return cls(LogNormal(mean, checked_std(std), end), stratified, importance, sharded)

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

        Args:
            t_star: share of noise in (0, 1], such as `stats.t_star(FlowPath())`.
            mean: of `ln(t / (1 - t))`.
            std: of it.
            stratified: see the class.
            importance: see the class.
            sharded: see the class.

        Raises:
            TruncationError: `t_star` is outside of (0, 1], or `std` not positive.
        """
        end = checked_end(t_star, "t_star", 1.0)
        return cls(LogitNormal(mean, checked_std(std), end), stratified, importance, sharded)

    # -- in the loop -----------------------------------------------------------------------------

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Timesteps of one batch.

        Args:
            batch_size: examples B of this process.
            generator: source of randomness; torch's global one when `None`.
            device: of the result; where the generator lives, else the CPU, when `None`.

        Returns:
            (B,): float32 of a continuous law, the table's own dtype otherwise.

        Raises:
            DataError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}, need at least one example.")
        home = torch.device("cpu") if generator is None else generator.device
        u = self._uniform(batch_size, generator, home)
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
            timesteps: (B,), as they were drawn.
            losses: of each example (B,).

        Raises:
            DataError: another shape, or a loss that is not finite.
        """
        if losses.shape != timesteps.shape:
            raise DataError(
                f"losses {tuple(losses.shape)} for timesteps {tuple(timesteps.shape)}: "
                "need one loss per example, before any mean over the batch."
            )
        if self.history is None:
            return
        found = torch.stack([self.density.cdf(timesteps), losses.detach().double()], -1)
        u, of_all = (gathered(found) if self.sharded else found).unbind(-1)
        self.history.update(u, of_all)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; `accelerator.register_for_checkpointing(timesteps)` works."""
        return {} if self.history is None else self.history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it is of another t* or another law.
        """
        if self.history is not None and state:
            self.history.load_state_dict(state)

    def _uniform(
        self, batch_size: int, generator: torch.Generator | None, home: torch.device
    ) -> Tensor:
        """Numbers (B,) in [0, 1), float64, of this process."""
        rank, world = (process_index(), n_processes()) if self.sharded else (0, 1)
        work = workspace(home)
        precise = torch.float64 if work == home else torch.float32  # Apple's GPUs have no float64
        count = 1 if self.stratified else batch_size * world
        drawn = torch.rand(count, generator=generator, dtype=precise, device=home)
        drawn = drawn.to(work, torch.float64)
        if not self.stratified:
            return drawn[rank::world]
        place = torch.arange(batch_size, dtype=torch.float64, device=work) + rank / world
        return (drawn + place / batch_size) % 1
