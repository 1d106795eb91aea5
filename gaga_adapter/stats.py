"""The artefact: what was fitted, small enough to ship beside a checkpoint.

`GAGAStats` joins the moments of the data, the Gaussianity curve and the characteristic log-SNR that
was chosen on it. Gaussianity depends on the SNR alone, so one artefact serves every noise schedule:
each path or scheduler maps `log_snr_star` to its own time.

On disk a folder holds `gaga_config.json` (readable: layout, curve, choice, provenance) and
`gaga_stats.safetensors` (the tensors), which `files/pair.py` writes and reads. Levels that were
fitted to a model with these statistics are a file of their own beside them, `gaga_levels.json`.
Nothing is pickled.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gaga_adapter.errors import ArtefactError, GAGAError, StatsMismatchError, warn
from gaga_adapter.files import card_writer
from gaga_adapter.files.checked import Fields, printable
from gaga_adapter.files.pair import Pair, digest_of
from gaga_adapter.layout import DenseLayout, Layout, TokenLayout, layout_from_dict, layout_to_dict
from gaga_adapter.moments import ExchangeableMoments, has_layout, moments_from_state_dict
from gaga_adapter.noise.fitted import (
    LEVELS_NAME,
    FittedLevels,
    load_levels,
    save_levels,
    with_levels,
)
from gaga_adapter.noise.levels import MOST_LOG_SNR, check_log_snr
from gaga_adapter.noise.paths import GaussianPath
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.selection import Selection

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, SchedulerMixin

    from gaga_adapter.moments import DenseMoments
    from gaga_adapter.reference.refined.refinement import Refinement

SCHEMA_VERSION = 4
CONFIG_NAME = "gaga_config.json"
TENSORS_NAME = "gaga_stats.safetensors"
_FILES = Pair(CONFIG_NAME, TENSORS_NAME, SCHEMA_VERSION, "`gaga fit`")
#: Artefacts that ship with the package, by name.
EMBEDDED = {"qm9": Path(__file__).parent / "assets" / "qm9"}
#: Folders of `integrations.flat.JointStats`, each with an artefact.
PARTS_OF_COMPLEXES = ("first", "second", "displacement")
#: What else may be in a folder, by the file that tells.
_DIFFUSERS = {
    "scheduler_config.json": "a scheduler",
    "config.json": "a model",
    "model_index.json": "a pipeline",
}
_STATES_CONFIG = "gaga_states.json"  # of `noised_states.FittedStates`
_INSTEAD = (
    "Pass a folder written by `gaga fit`, a hub id such as user/name, or one of: "
    f"{', '.join(EMBEDDED)}."
)
_STATES = (
    "The law of noised states is known at the levels of one codebase and has no log-SNR, so that "
    "no scheduler can be cut by it: start the codebase's own loop at level_star, from start()."
)


@dataclass(frozen=True, eq=False)
class GAGAStats:
    r"""Fitted statistics of one data set.

    Attributes:
        layout: Meaning of the channels and how they were normalised.
        moments: Streamed moments, `DenseMoments` or `ExchangeableMoments`.
        log_snr_star: Characteristic log-SNR; from there on towards noise the data count as
            Gaussian.
        selection: Curve and rule that chose `log_snr_star`, if it was chosen on a curve.
        provenance: Source of the data, their number, and library versions. Control characters in
            it are kept as their escapes, such as `\x1b`.
        refinement: Mixing weights and tilt of the `shape` reference, if they were fitted.
        levels: Levels for few network calls that were fitted with these statistics, if any.

    Raises:
        TruncationError: If `log_snr_star` is outside of (-60, 60).
        StatsMismatchError: If the moments have other channels than the layout, or a refinement
            comes with data that have no `shape` or that it was not fitted with.
    """

    layout: Layout
    moments: DenseMoments | ExchangeableMoments
    log_snr_star: float
    selection: Selection | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    refinement: Refinement | None = None
    levels: tuple[FittedLevels, ...] = ()

    def __post_init__(self) -> None:
        star = check_log_snr("log_snr_star", self.log_snr_star)
        object.__setattr__(self, "log_snr_star", star)
        object.__setattr__(self, "provenance", printable(self.provenance))
        moments, layout = self.moments, self.layout
        for what, value, member in (
            ("layout", layout, "describe"),
            ("moments", moments, "state_dict"),
        ):
            if not hasattr(value, member):
                raise StatsMismatchError(
                    f"{what}={value!r} is none. Pass what a fit gives: GAGAStats(layout, moments, "
                    "log_snr_star), or let `fit` make the statistics."
                )
        if not has_layout(moments, layout):
            raise StatsMismatchError(
                f"the layout has {layout.describe()}, the moments are {moments.metadata()}. "
                "Pass the moments of data in this layout."
            )
        if self.refinement is not None:
            if not isinstance(moments, ExchangeableMoments) or isinstance(layout, TokenLayout):
                raise StatsMismatchError(
                    f"a refinement is of molecules, and the layout has {layout.describe()}. Leave "
                    "the refinement out."
                )
            self.refinement.check(moments)

    def __repr__(self) -> str:
        judged = self.judged_reference
        start = "" if judged is None else f", {judged} reference"
        if self.refinement is not None:
            start += f" refined by {' and '.join(self.refinement.methods)}"
        count = f"{self.moments.count:,} items"
        return (
            f"GAGAStats({self.layout.describe()}, {count}{start}, "
            f"log_snr_star={self.log_snr_star:.4g})"
        )

    @property
    def judged_reference(self) -> str | None:
        """Kind of the reference that t* was chosen for; `None` if it was chosen on no curve."""
        return None if self.selection is None else self.selection.curve.reference

    def reference(self, kind: str = "auto") -> ReferenceGaussian:
        """The closed-form start of the given kind, at the level of the data (a=1, b=0).

        Args:
            kind: Kind of the reference; `auto` is the one that t* was chosen for. Without a curve
                it is `shape` for molecules, `size` for tokens and the fitted covariance for dense
                data. The kind `shape` has the stored refinement, if there is one; `plain` is like
                `auto` without it.
        """
        judged, refinement = self.judged_reference, self.refinement
        if kind == "plain":
            kind, refinement = "auto", None
        if kind == "auto" and judged is not None:
            try:
                return make_reference(self.moments, judged, refinement)
            except StatsMismatchError:  # a criterion of the user's own may name another law
                pass
        return make_reference(self.moments, kind, refinement)

    @property
    def has_discrete_types(self) -> bool:
        """Whether t* was chosen for a start whose types stay discrete, a kind of `mixed`.

        Models that diffuse their types have no such start, so it has no place on their schedules.
        """
        return (self.judged_reference or "").startswith("mixed")

    def start(
        self,
        kind: str = "auto",
        log_snr_star: float | None = None,
        discrete_types: bool = False,
    ) -> ReferenceGaussian:
        """The reference for a sampler that starts at t*, with a warning if t* is for another one.

        Args:
            kind: Kind of the reference, as in `reference`.
            log_snr_star: Log-SNR of the start, if the user chose one by hand; then nothing is
                said.
            discrete_types: Whether the types of the sampler jump beside positions that flow. The
                kinds of `mixed` are for such samplers and for no others.

        Raises:
            StatsMismatchError: If the kind is unknown, finer than what was fitted, or a kind of
                `mixed` for a sampler that diffuses its types.
        """
        reference, judged = self.reference(kind), self.judged_reference
        if reference.kind.startswith("mixed") and not discrete_types:
            raise StatsMismatchError(
                f"types of the {reference.kind!r} reference stay discrete, and this sampler "
                "diffuses them. It takes reference='shape', best with statistics that are fitted "
                "for it. Flows whose types jump start by gaga_adapter.integrations.flows."
            )
        is_fitted = log_snr_star is None or log_snr_star == self.log_snr_star
        if judged is not None and is_fitted and reference.kind != judged:
            warn(
                f"t* was chosen for the {judged!r} reference, and the start is the "
                f"{reference.kind!r} one: how far it is from the noised data there was not "
                f"measured. Leave the reference out, or fit with reference={reference.kind!r}."
            )
        return reference

    def at_size(self, n_atoms: int) -> GAGAStats:
        """The same statistics with the t* of molecules of one size.

        A batch of molecules of one size can start at its own step; one of several sizes starts at
        that of the size which is last to become Gaussian, usually the largest. A size that was not
        seen takes the noisier one of its two neighbours.

        Args:
            n_atoms: Number of atoms N.

        Raises:
            StatsMismatchError: If no t* per size was chosen.
        """
        stars = self.selection.by_size if self.selection is not None else {}
        if not stars:
            raise StatsMismatchError(
                "these statistics have one t* for all sizes. Fit with by_size=True "
                "(`gaga fit --by-size`)."
            )
        below = max((size for size in stars if size <= n_atoms), default=min(stars))
        above = min((size for size in stars if size >= n_atoms), default=max(stars))
        return replace(self, log_snr_star=min(stars[below], stars[above]))

    def t_star(self, path_or_scheduler: GaussianPath | SchedulerMixin) -> float:
        """The first time of a path, or timestep of a scheduler, at or beyond `log_snr_star`.

        Args:
            path_or_scheduler: Path, which gives its continuous time in [0, 1] (for an equidistant
                table the first node at or beyond), or diffusers scheduler, which gives the first
                of its training timesteps at or beyond, in its own units.

        Raises:
            TruncationError: If the path never gets that noisy.
        """
        if isinstance(path_or_scheduler, GaussianPath):
            return path_or_scheduler.first_time(self.log_snr_star)
        from gaga_adapter.noise.timesteps import t_star

        return float(t_star(path_or_scheduler, self.log_snr_star))

    def training_scheduler(self, base: SchedulerMixin, steps: int) -> DDPMScheduler:
        """A schedule for training from scratch: `steps` steps that all lie in [0, t*].

        It has the base's own noise levels as a function of time, from its cleanest one to
        `log_snr_star`, and is a plain scheduler of diffusers: it saves, loads and trains in every
        training loop. Sample with `GAGAScheduler.from_pretrained(schedule, stats)`, which starts
        at its last training step.

        Args:
            base: Diffusers scheduler with a table of training steps. What it asks of the network
                (`prediction_type`) and how it clips samples goes over.
            steps: Number of training steps, at least 2.

        Raises:
            TruncationError: If the base does not reach t*, or `steps` is no possible number.
            UnsupportedSchedulerError: If the base trains on continuous noise levels.
            StatsMismatchError: If t* was chosen for types that stay discrete.
        """
        if self.has_discrete_types:
            raise StatsMismatchError(
                f"t* was chosen for the {self.judged_reference!r} reference, whose types stay "
                "discrete, and a scheduler diffuses them. Fit with reference='shape'."
            )
        from gaga_adapter.noise.training_table import training_scheduler

        scheduler: DDPMScheduler = training_scheduler(base, self.log_snr_star, steps)
        return scheduler

    def with_levels(self, fitted: FittedLevels) -> GAGAStats:
        """The same statistics with fitted levels, which take the place of those for the same run.

        Args:
            fitted: Levels that `fit_levels` chose with these statistics.
        """
        return replace(self, levels=with_levels(self.levels, fitted))

    @property
    def sigma_star(self) -> float:
        """`b / a` at t*: the noise level of Karras-EDM models, whose a is 1."""
        return math.exp(-self.log_snr_star / 2)

    # -- on disk ---------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artefact into a folder; an older one there stays intact if writing fails.

        Raises:
            WriteError: If the folder cannot be written, such as on a full disk.
            ArtefactError: If something in the statistics is not valid, such as provenance that JSON
                does not have.
        """
        folder = Path(folder)
        tensors, config = self._tensors(), self.to_dict()

        def check(config: Mapping[str, Any]) -> None:
            try:
                self._from_config(config, tensors)
            except GAGAError as error:
                raise ArtefactError(f"these statistics could not be read again: {error}") from error

        _FILES.write(folder, config, tensors, check)
        save_levels(folder, self.levels, config["digest"])

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        endpoint: str | None = None,
    ) -> GAGAStats:
        """Read an artefact from a folder, a hub repository, or by the name of an embedded one.

        Args:
            name_or_path: Folder, hub id such as `user/qm9-gaga`, or `qm9` (if no folder of that
                name holds an artefact).
            revision: Branch, tag or commit of the hub repository.
            token: Hub token.
            cache_dir: Folder for downloads.
            local_files_only: Whether to leave the hub alone and use earlier downloads only.
            endpoint: Address of the hub; huggingface_hub's own by default.

        Raises:
            ArtefactError: If there is no artefact, it cannot be read, is corrupt, or has a newer
                schema.
        """
        if not isinstance(name_or_path, str | Path):
            raise ArtefactError(
                f"got {type(name_or_path).__name__}, not a name. "
                f"{_STATES if hasattr(name_or_path, 'level_star') else _INSTEAD}"
            )
        name, folder = str(name_or_path), Path(name_or_path)
        if not name:
            raise ArtefactError(f"the name of the statistics is empty. {_INSTEAD}")
        if name in EMBEDDED and not (folder / CONFIG_NAME).is_file():
            return cls._read(EMBEDDED[name], name)
        from gaga_adapter.files.hub import check_repo_id, download, looks_like_hub_id

        if "://" in name:
            check_repo_id(name)
        if os.path.exists(folder) or not looks_like_hub_id(name):
            return cls._read(folder, name)
        files = [CONFIG_NAME, TENSORS_NAME, LEVELS_NAME]
        folder = download(
            name, files, _INSTEAD, revision, token, cache_dir, local_files_only, endpoint
        )
        try:
            return cls._read(folder, name)
        except ArtefactError as error:
            raise ArtefactError(
                f"{name} was downloaded and cannot be used: {error} Tell its owner, or remove "
                f"{folder.parent.parent} to download it anew."
            ) from error

    @classmethod
    def _read(cls, folder: Path, name: str) -> GAGAStats:
        """The artefact in a folder, which the user called `name`."""
        return _FILES.read_again(folder, lambda: cls._read_once(folder, name))

    @classmethod
    def _read_once(cls, folder: Path, name: str) -> GAGAStats:
        def make(config: Mapping[str, Any], tensors: dict[str, Tensor]) -> tuple[GAGAStats, str]:
            return cls._from_config(config, tensors), config["digest"]

        stats, digest = _FILES.read(folder, partial(_what_is_missing, folder, name), make)
        levels = load_levels(folder, digest)
        return replace(stats, levels=levels) if levels else stats

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload GAGA statistics",
        create_pr: bool = False,
        license: str | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Upload the artefact and its card to the Hugging Face hub, in one commit.

        The repository is made where there is none. In a card that is there already, only the part
        between its markers is written anew; the rest is its owner's.

        Args:
            repo_id: Repository `user/name`, or `name` for one of your own.
            private: Whether a new repository is private; the account's default when `None`.
            token: Hub token; that of `hf auth login` or `HF_TOKEN` by default.
            commit_message: Summary of what changed.
            create_pr: Whether to open a pull request instead of committing to `main`.
            license: Licence of the statistics, as the hub spells it, such as `cc0-1.0`.
            endpoint: Address of the hub; huggingface_hub's own by default.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ArtefactError: If `repo_id` has another form, or the card on the hub has only one of
                the two markers.
            DataError: If the licence is no identifier of the hub's.
            WriteError: If the hub did not take it; what was there is unchanged.
        """
        from gaga_adapter.files.hub import check_license, publish

        check_license(license)
        write_card = card_writer()

        def write(folder: Path, full_id: str, card: str | None) -> None:
            self.save_pretrained(folder)
            write_card(self, folder, full_id, card, license)

        return publish(repo_id, write, commit_message, private, token, create_pr, endpoint)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, ready for JSON."""
        return {
            "schema_version": self._schema_version,
            "log_snr_star": self.log_snr_star,
            "symmetry": _symmetry(self.layout),
            "layout": layout_to_dict(self.layout),
            "moments": self.moments.metadata(),
            "selection": None if self.selection is None else self.selection.to_dict(),
            **({} if self.refinement is None else {"refinement": self.refinement.to_dict()}),
            "provenance": dict(self.provenance),
            "digest": digest_of(self._tensors()),
        }

    @property
    def _schema_version(self) -> int:
        """The oldest schema that holds this.

        Version 0.1 knows neither tokens nor channels on another axis, nor `shape` with exact
        tensors; these came with schema 2, refinements with schema 3, and moments with discrete
        types with schema 4.
        """
        layout, moments = self.layout, self.moments
        if moments.metadata()["moments"] == "mixed":
            return 4
        if self.refinement is not None:
            return 3
        if isinstance(layout, DenseLayout):
            return 2 if layout.channels > 0 else 1
        exact = getattr(moments, "keeps_tensors", False)
        return 2 if exact or isinstance(layout, TokenLayout) else 1

    def _tensors(self) -> dict[str, Tensor]:
        refined = {} if self.refinement is None else self.refinement.tensors()
        tensors = {**self.moments.state_dict(), **refined}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @classmethod
    def _from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GAGAStats:
        about = Fields(config, "the configuration")
        selection = about.fields("selection").data if about.is_given("selection") else None
        layout, own, refinement = layout_from_dict(dict(about.fields("layout").data)), tensors, None
        if about.is_given("refinement"):
            from gaga_adapter.reference.refined.refinement import TENSORS, Refinement

            own = {name: tensor for name, tensor in tensors.items() if name not in TENSORS}
        moments = moments_from_state_dict(dict(own), dict(about.fields("moments").data))
        if about.is_given("refinement"):
            if not isinstance(moments, ExchangeableMoments) or not moments.keeps_tensors:
                raise ArtefactError("a refinement comes without a table of molecules' tensors.")
            parts = {name: tensor for name, tensor in tensors.items() if name in TENSORS}
            refinement = Refinement.from_parts(about.fields("refinement"), parts, moments)
        return cls(
            layout,
            moments,
            about.number("log_snr_star", -MOST_LOG_SNR, MOST_LOG_SNR),
            None if selection is None else Selection.from_dict(selection),
            dict(about.fields("provenance").data),
            refinement,
        )


def _symmetry(layout: Layout) -> str:
    if isinstance(layout, DenseLayout):
        return "none"
    return "O(3) and permutations" if layout.n_positions else "permutations"


def library_versions() -> dict[str, str]:
    """Versions that a fit depends on, for its provenance."""
    from importlib.metadata import version

    return {name: version(name) for name in ("gaga-adapter", "torch", "numpy", "scikit-learn")}


def holds_states(folder: str | Path) -> bool:
    """Whether a folder holds statistics of noised states (`FittedStates`), and none of data."""
    found = [os.path.isfile(Path(folder) / name) for name in (CONFIG_NAME, _STATES_CONFIG)]
    return found == [False, True]


def _what_is_missing(folder: Path, name: str, missing: list[str]) -> str:
    """The message where there is no artefact: what there is, and what to pass."""
    if os.path.isfile(folder):
        instead = f"If these are data, `gaga fit {name} --out stats/` makes one."
        if folder.name in (CONFIG_NAME, TENSORS_NAME):
            instead = f"Pass {folder.parent}."
        return f"{name} is a file, and fitted statistics are a folder. {instead}"
    within = (
        [sub.parent for sub in sorted(folder.glob(f"*/{CONFIG_NAME}")) if os.path.isfile(sub)]
        if os.path.isdir(folder)
        else []
    )
    if {sub.name for sub in within} == set(PARTS_OF_COMPLEXES):
        return (
            f"{name} holds statistics of complexes, a folder for each part. Read them by "
            f"JointStats.from_pretrained({name!r}) of gaga_adapter.integrations.flat."
        )
    if within:
        return f"no fitted statistics in {name} itself. Pass {within[0]}."
    what = f"{' and '.join(missing)} not found"
    if os.path.isdir(folder):
        for file, kind in _DIFFUSERS.items():
            if os.path.isfile(folder / file):
                what = f"it holds {kind} of diffusers, without statistics"
        if holds_states(folder):
            what = "it holds statistics of noised states; read them by FittedStates.from_pretrained"
    near = get_close_matches(name.lower(), EMBEDDED, 1)
    guess = f" Did you mean {near[0]}?" if near and not folder.exists() else ""
    return f"no fitted statistics in {name}: {what}.{guess} {_INSTEAD}"
