r"""`FewStepScheduler`: a dozen network calls under any diffusers scheduler's noise levels.

    pipe.scheduler = FewStepScheduler.from_scheduler(pipe.scheduler)
    pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="qm9")
    pipe(16, num_inference_steps=12)

A step goes from the level `(a, b)` to the next, cleaner one `(A, B)`. With xhat, the clean
prediction, it is one of two:

    ancestral     x' = A xhat + sqrt(B² - s²) (x - a xhat) / b + s eps',  s² = B² (1 - a²B² / A²b²)
    re-noised     x' = A xhat + B eps'

The first is the exact step of a Gaussian (Ho et al. 2020, equation 7; in this form Song et al.
2021a, equation 12 with eta = 1). The second forgets the sample but for the prediction, as
consistency models do (Song et al. 2023, algorithm 1): it repairs what a coarse step has left
wrong, and pulls towards the most likely samples. So ancestral steps are made while the form of a
sample is decided, and re-noised ones from the log-SNR `renoise_from` on. The last call's clean
prediction is the sample. No prediction is clipped, whatever the other scheduler does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gaga_adapter.errors import (
    DataError,
    TruncationError,
    UnsupportedSchedulerError,
    whole_number,
)
from gaga_adapter.few_step.levels import LOG_SNR_MAX, even_log_snrs, even_timesteps
from gaga_adapter.few_step.matching import Step, matched
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.conventions import ROWS, Convention, Level, convention_of, known_name
from gaga_adapter.noise.levels import check_log_snr

if TYPE_CHECKING:
    from gaga_adapter.moments.dense import DenseMoments

#: Log-SNR of the first network call where nothing else says it. Further out a call says next to
#: nothing, and an epsilon is too small a part of its sample to tell the data from.
LOG_SNR_MIN = -4.6


@dataclass
class FewStepOutput(BaseOutput):  # type: ignore[misc]
    """Result of one step.

    Attributes:
        prev_sample: Sample (B, ...) at the next level; clean after the last step.
        pred_original_sample: Clean prediction (B, ...) that the step was made with.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Ancestral steps, then re-noising, on few levels that are even in log-SNR.

    Make it with `from_scheduler(pipe.scheduler)` from any scheduler that is supported: it takes
    over the noise levels, the units of the timesteps and what the network predicts.

    Args:
        noise_class: Name of the diffusers class whose levels and predictions are meant.
            `from_scheduler` sets it, and keeps that class's own configuration beside it.
        log_snr_max: Log-SNR of the last network call.
        log_snr_min: Log-SNR of the first network call, where no start at t* says it.
        renoise_from: Log-SNR from which on steps re-noise; minus infinity for all steps, and
            infinity for none.
        n_renoised: Most steps that re-noise, which are then the last ones; `None` for no limit.
            More of them make samples more stable and more alike.
        match_below: Log-SNR below which predictions are scaled to the second moment of the data,
            see `moments`; minus infinity for never.

    Attributes:
        moments: Moments of the data that the predictions are matched to, or `None` for no
            matching. A scheduler that is wrapped by `GAGAScheduler` with statistics of molecules
            has those. Those of images or latents have to be put here by hand: the prediction of a
            network that is told what to show lacks less spread than matching takes it for, and one
            number cannot give back what directions of different variance lack. They are not saved.
        renoised: Number of the last steps of the grid that re-noise, where fitted levels say it;
            `None` for what `renoise_from` and `n_renoised` say.

    Raises:
        UnsupportedSchedulerError: If the class is refused or unknown.
        TruncationError: If a number is out of range.
    """

    __module__ = "gaga_adapter.few_step"  # where diffusers looks for the class of a saved pipeline
    _compatibles: ClassVar[list[str]] = [name for name in ROWS if name != "FewStepScheduler"]
    order: ClassVar[int] = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        noise_class: str = "DDPMScheduler",
        log_snr_max: float = LOG_SNR_MAX,
        log_snr_min: float = LOG_SNR_MIN,
        renoise_from: float = 1.0,
        n_renoised: int | None = None,
        match_below: float = 3.0,
    ) -> None:
        check_log_snr("log_snr_max", log_snr_max)
        check_log_snr("log_snr_min", log_snr_min)
        even_log_snrs(2, log_snr_min, log_snr_max)
        thresholds: dict[str, Any] = {"renoise_from": renoise_from, "match_below": match_below}
        for name, value in thresholds.items():
            if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
                raise TruncationError(
                    f"{name}={value!r} is no log-SNR. Pass a number; infinity is allowed."
                )
        if n_renoised is not None:
            whole_number("n_renoised", n_renoised, 0, error=TruncationError)
        theirs = inspect.signature(_noise_class(noise_class).__init__).parameters
        defaults = {k: p.default for k, p in theirs.items() if p.default is not p.empty}
        self.register_to_config(**{k: v for k, v in defaults.items() if k not in self.config})
        self.moments: ExchangeableMoments | DenseMoments | None = None
        self.renoised: int | None = None
        self._like: Any = None
        self._known: Convention | None = None
        self.num_inference_steps: int | None = None
        self.timesteps = torch.empty(0)
        self.sigmas = torch.empty(0, dtype=torch.float64)
        self._step_index: int | None = None
        self._begin_index: int | None = None

    # -- the noise levels of another scheduler -----------------------------------------------------

    @classmethod
    def from_scheduler(cls, scheduler: Any, **options: Any) -> FewStepScheduler:  # noqa: ANN401
        """A scheduler with the noise levels and the prediction of another one.

        Args:
            scheduler: Supported diffusers scheduler; of a truncated one, its base is meant.
            **options: Arguments of this class.

        Raises:
            UnsupportedSchedulerError: If its class is refused or unknown.
        """
        base = getattr(scheduler, "_gaga_base", type(scheduler))
        name = known_name(base)
        if name == FewStepScheduler.__name__:
            name = scheduler.config.noise_class
        made: FewStepScheduler = cls.from_config(
            {**scheduler.config, "_class_name": name}, **options
        )
        made.moments = getattr(scheduler, "moments", None)
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is not None:  # somebody may have put another one there, such as a float64 one
            made.like.alphas_cumprod = table.clone()
        return made

    @classmethod
    def from_config(
        cls,
        config: Any = None,  # noqa: ANN401 - diffusers' own signature
        return_unused_kwargs: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """A scheduler with the noise levels and the prediction of a scheduler's configuration.

        A configuration that was not read from a file does not say whose it is. That is no matter
        for a table of betas; of others, pass the scheduler itself to `from_scheduler`.

        Args:
            config: Configuration of a supported diffusers scheduler, or of this class.
            return_unused_kwargs: Whether to return what is in no signature, too.
            **kwargs: Arguments of this class, and changes to the other class's configuration.

        Raises:
            UnsupportedSchedulerError: If the class is refused or unknown, or not to be known.
        """
        if not isinstance(config, dict):
            raise UnsupportedSchedulerError(
                f"got a {type(config).__name__} and no configuration. Pass scheduler.config, or "
                f"the scheduler itself to {cls.__name__}.from_scheduler."
            )
        # What the other class has by default, this one has not.
        config = {key: value for key, value in config.items() if key != "_use_default_values"}
        name = str(config.get("_class_name") or "").removeprefix("GAGA")
        if name not in ("", cls.__name__, FewStepScheduler.__name__):
            config["noise_class"] = name
        elif "noise_class" not in config and not _is_table(config):
            raise UnsupportedSchedulerError(
                "this configuration does not say which scheduler's it is. Pass the scheduler "
                f"itself: {cls.__name__}.from_scheduler(pipe.scheduler)."
            )
        theirs = inspect.signature(
            _noise_class(config.get("noise_class", "DDPMScheduler")).__init__
        ).parameters
        own = inspect.signature(cls.__init__).parameters
        config |= {key: kwargs.pop(key) for key in list(kwargs) if key in {*theirs} - {*own}}
        made = super().from_config(config, return_unused_kwargs, **kwargs)
        _ = (made[0] if return_unused_kwargs else made)._at.relation  # refuses what has no rule
        return made

    @property
    def like(self) -> Any:  # noqa: ANN401 - a diffusers scheduler
        """The scheduler whose levels, timesteps and prediction these are."""
        if self._like is None:
            own = inspect.signature(type(self).__init__).parameters
            config = {k: v for k, v in self.config.items() if k not in own and k[0] != "_"}
            self._like = _noise_class(self.config.noise_class).from_config(config)
        return self._like

    @property
    def alphas_cumprod(self) -> Tensor:
        """Table of the training path (T,), where the levels are one."""
        table: Tensor = self.like.alphas_cumprod
        return table

    @property
    def _at(self) -> Convention:
        """The convention of these levels, whose table is read once for a grid."""
        return self._known or convention_of(self.like)

    def take_moments(self, moments: ExchangeableMoments | DenseMoments) -> None:
        """Match the moments of these statistics, if they are of molecules; see `moments`."""
        if isinstance(moments, ExchangeableMoments):
            self.moments = moments

    # -- the grid ----------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        **unused: Any,  # noqa: ANN401 - such as mu, of the flow schedulers
    ) -> None:
        """Make the grid: `num_inference_steps` levels that are even in log-SNR, or those given.

        Args:
            num_inference_steps: Number of network calls.
            device: Device of the timesteps.
            timesteps: Timesteps (n,) to use instead, falling in noise, in the units of the class
                whose levels these are.
            sigmas: Levels (n,) to use instead: shares of noise of a flow, else ratios of noise to
                signal, `b / a`, falling. On a table the nearest entries are taken, and a last 0
                stands for the data and is no step. Flow pipelines pass such a list by themselves:
                wrapped in `GAGAScheduler`, only its number counts.
            **unused: Other arguments that pipelines pass, such as `mu`: no level is shifted here.

        Raises:
            TruncationError: If the number is no whole one, or the levels given do not fall or lie
                outside of the path, or both kinds are given.
        """
        at = self._known = convention_of(self.like)
        if timesteps is not None and sigmas is not None:
            raise TruncationError("got timesteps and sigmas. Pass one of them.")
        if timesteps is not None:
            found = _numbers("timesteps", timesteps)
        elif sigmas is not None:
            shares = _numbers("sigmas", sigmas)
            shares = shares[:-1] if shares[-1:] == [0.0] else shares  # the data are no step
            ratios = [_ratio_of(sigma, at) for sigma in shares]
            found = [at.timestep_at(ratio) if ratio > 0 else math.nan for ratio in ratios]
        else:
            n = whole_number("num_inference_steps", num_inference_steps, error=TruncationError)
            found = self._own_timesteps(n)
        low, high = sorted(at.ends)
        slack = 1e-6 * max(1.0, abs(low), abs(high))  # timesteps are float32 numbers
        if not found or not all(low - slack <= t <= high + slack for t in found):
            raise TruncationError(
                f"the levels given are timesteps {found[:4]}, and those of "
                f"{self.config.noise_class} lie in [{low:g}, {high:g}]. Pass noise levels within."
            )
        ratios = [at.ratio_at(t) for t in found]
        if not ratios[-1] > 0 or not all(later < ratio for ratio, later in pairwise(ratios)):
            raise TruncationError(
                f"the levels of timesteps {found[:4]} do not fall towards the data. Pass different "
                "entries from noise to data, all of them with noise."
            )
        whole = at.table is not None and all(t == int(t) for t in found)
        self.num_inference_steps = len(found)
        self.timesteps = torch.tensor(
            found, dtype=torch.int64 if whole else torch.float32, device=device
        )
        shares = [_sigma_of(ratio, at) for ratio in ratios]
        self.sigmas = torch.tensor([*shares, 0.0], dtype=torch.float64)
        self._step_index = self._begin_index = self.renoised = None

    def _own_timesteps(self, n: int) -> list[float]:
        at, ends = self._at, (self.config.log_snr_min, self.config.log_snr_max)
        if not at.noise_is_bare:
            return even_timesteps(at, n, *ends)
        # Pipelines of these kinds start from noise alone, which is a level of its own.
        return [at.ends[1], *even_timesteps(at, n, *ends)[1:]]

    @property
    def ratios(self) -> Tensor:
        """Ratios `b / a` (n,), float64, of the entries of the grid."""
        at = self._at
        found = [_ratio_of(sigma, at) for sigma in self.sigmas.tolist()[:-1]]
        return torch.tensor(found, dtype=torch.float64)

    @property
    def init_noise_sigma(self) -> float:
        """Number to multiply unit noise with, so that it stands for data of unit variance."""
        at = self._at
        if at.noise_is_bare:  # where pipelines take noise as it is
            return 1.0
        ratio = (
            _ratio_of(float(self.sigmas[0]), at) if len(self.sigmas) else at.ratio_at(at.ends[1])
        )
        return at.signal(ratio) * math.hypot(1, ratio)

    @property
    def step_index(self) -> int | None:
        """Place in the grid of the next step; `None` before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Place in the grid of the first step, if the loop has said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say where in the grid the loop begins."""
        self._begin_index = begin_index

    # -- a step ------------------------------------------------------------------------------------

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network is to see of a sample (B, ...) at a timestep."""
        return sample if timestep is None else self._seen(sample, timestep)

    def _seen(self, sample: Tensor, timestep: float | Tensor) -> Tensor:
        at = self._at
        ratio = at.ratio_at(float(timestep))
        share = at.seen_signal(ratio) / at.signal(ratio) if at.signal(ratio) else 1.0
        return sample if share == 1 else sample * share

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        **unused: Any,  # noqa: ANN401 - such as eta, which some pipelines pass to every scheduler
    ) -> FewStepOutput | tuple[Tensor, Tensor]:
        """One step to the next level of the grid; the last one gives the clean prediction.

        Args:
            model_output: Output (B, ...) of the network at `timestep`.
            timestep: Entry of `timesteps`.
            sample: Sample (B, ...) at that level.
            generator: Source of the noise, or one source for each example.
            return_dict: Whether to return a `FewStepOutput` instead of a tuple.
            **unused: Arguments of other schedulers, such as `eta`, without a meaning here.

        Raises:
            TruncationError: If there is no grid, or `timestep` is no entry of it.
            DataError: If the output has another shape than the sample, and is not a mean and a
                learned variance.
        """
        model_output = self._mean_of(model_output, sample)
        place = self._place(timestep)
        at, dtype = self._at, sample.dtype
        exact = torch.promote_types(dtype, torch.float32)
        sample = sample.to(exact)
        seen = self._seen(sample, timestep)
        clean = at.clean(model_output.to(exact), seen, timestep)
        if place < len(self.timesteps) - 1:
            step = self._step(place, at)
            if self.moments is not None and step.here.log_snr < self.config.match_below:
                clean = matched(clean, sample, step, self.moments)
            noise = randn_tensor(
                sample.shape, generator=generator, device=sample.device, dtype=exact
            )
            following = step.of_clean * clean + step.of_sample * sample + step.noise * noise
        else:
            following = clean
        self._step_index = place + 1
        following, clean = following.to(dtype), clean.to(dtype)
        return FewStepOutput(following, clean) if return_dict else (following, clean)

    def _mean_of(self, output: Tensor, sample: Tensor) -> Tensor:
        """The output of the network (B, ...) without the variance that it may have learnt."""
        learns = "learned" in str(self.config.get("variance_type"))
        if learns and output.shape[1] == 2 * sample.shape[1]:
            output = output[:, : sample.shape[1]]
        if output.shape != sample.shape:
            raise DataError(
                f"model_output has shape {tuple(output.shape)} and the sample "
                f"{tuple(sample.shape)}. Pass the network's output for this sample."
            )
        return output

    def _place(self, timestep: float | Tensor) -> int:
        if not len(self.sigmas):
            raise TruncationError("there is no grid. Call scheduler.set_timesteps first.")
        if self._step_index is None and self._begin_index is not None:
            self._step_index = self._begin_index
        elif self._step_index is None:
            entries = self.timesteps.tolist()
            if float(timestep) not in entries:
                raise TruncationError(
                    f"timestep {float(timestep):g} is no entry of scheduler.timesteps. Pass its "
                    "entries as they are."
                )
            self._step_index = entries.index(float(timestep))
        if self._step_index >= len(self.timesteps):
            raise TruncationError(
                "the grid is used up. Call scheduler.set_timesteps for every run."
            )
        return self._step_index

    def _step(self, place: int, at: Convention) -> Step:
        """The step from one entry of the grid to the next."""
        here, there = (
            at.level(_ratio_of(sigma, at)) for sigma in self.sigmas[place : place + 2].tolist()
        )
        steps_left = len(self.timesteps) - 1 - place
        most = self.config.n_renoised
        renoises = here.log_snr >= self.config.renoise_from and (most is None or steps_left <= most)
        if self.renoised is not None:
            renoises = steps_left <= self.renoised
        if renoises or not here.a:
            return Step(here, there, there.a, 0.0, there.b)
        return Step(here, there, *_ancestral(here, there))

    # -- noised data -------------------------------------------------------------------------------

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Data (B, ...) with noise (B, ...) at training timesteps (B,)."""
        at = self._at
        levels = [at.level(at.ratio_at(float(t))) for t in torch.as_tensor(timesteps).flatten()]
        shape = (-1, *(1,) * (original_samples.dim() - 1))
        a, b = torch.tensor(levels, dtype=torch.float64).to(original_samples).T
        noised: Tensor = a.reshape(shape) * original_samples + b.reshape(shape) * noise
        return noised

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise` by the name that pipelines of flow models call."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps") or 1000)


def _ratio_of(sigma: float, at: Convention) -> float:
    """The ratio `b / a` of an entry of `sigmas`."""
    if not at.noise_is_bare:
        return sigma
    return sigma / (1 - sigma) if sigma < 1 else math.inf


def _sigma_of(ratio: float, at: Convention) -> float:
    """The entry of `sigmas` for a ratio `b / a`."""
    return 1 / (1 + 1 / ratio) if at.noise_is_bare else ratio


def _numbers(name: str, values: Any) -> list[float]:  # noqa: ANN401 - what a caller passed
    """A list of numbers.

    Raises:
        TruncationError: If it is none.
    """
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise TruncationError(f"{name} is no list of numbers. Pass one, falling.") from error


def _ancestral(here: Level, there: Level) -> tuple[float, float, float]:
    """Weights of prediction, sample and noise in an ancestral step."""
    (a, b), (a_next, b_next) = here, there
    variance = b_next**2 * (1 - (a * b_next / (a_next * b)) ** 2)
    of_sample = math.sqrt(max(b_next**2 - variance, 0.0)) / b
    return a_next - a * of_sample, of_sample, math.sqrt(variance)


def _is_table(config: dict[str, Any]) -> bool:
    """Whether the levels of a configuration are a table of betas, whatever class it is of."""
    continuous = config.get("timestep_type") == "continuous" or config.get("use_flow_sigmas")
    return "beta_schedule" in config and not continuous


def _noise_class(name: Any) -> type[Any]:  # noqa: ANN401 - whatever a configuration says
    """The diffusers class of this name, if its levels are known.

    Raises:
        UnsupportedSchedulerError: If there is none, or it is refused.
    """
    import diffusers

    found = getattr(diffusers.schedulers, str(name), None)
    if not isinstance(found, type):
        raise UnsupportedSchedulerError(
            f"diffusers has no scheduler {name!r} to take noise levels from. Pass the config of "
            "one of its schedulers, such as pipe.scheduler.config."
        )
    row = ROWS[known_name(found)]
    if row.tail:
        raise UnsupportedSchedulerError(
            f"{name} ends its grid with an entry that its pipelines do not call the network at, "
            "and few steps have none. Use it as it is."
        )
    return found
