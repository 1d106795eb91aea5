"""Fitted statistics in plain words, for readers who know their data and not diffusion models.

Every figure comes from the artefact, worked out in `report.facts`, `noise.paths` and `selection`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gaga_adapter.layout import AtomLayout, DenseLayout, Layout, MoleculeLayout, TokenLayout
from gaga_adapter.report.facts import Facts, cautions, home_savings, report_facts
from gaga_adapter.sampling import FEW_STEPS
from gaga_adapter.selection import LOWER_BOUNDS, MARGIN, right_guesses, worst_share
from gaga_adapter.stats import GAGAStats

if TYPE_CHECKING:
    from gaga_adapter.noised_states import FittedStates

#: What a start knows of the data, by its kind; the end of "The start ...".
_KNOWS = {
    "shape": "takes the three axes and the composition of a molecule of the data that has as many "
    "atoms as are asked for; which atom lies where, and which are bound, is left to the network",
    "size": "knows how far atoms are from the centre of molecules of each size, and which elements "
    "are how frequent; the form of single molecules is left to the network",
    "channel": "knows the mean and the variance of each channel; all else is left to the network",
    "element": "knows the mean and the variance of every single entry; how entries hang together "
    "is left to the network",
    "low_rank": "knows the mean of every entry, and the directions in which entries vary most "
    "together; all finer structure is left to the network",
    "full": "knows the mean of every entry, and how any two entries vary together; whatever three "
    "or more entries have in common is left to the network",
    "paper": "knows one variance for all channels, as was published; all else is left to the "
    "network",
    "unit": "knows nothing of the data: it is plain noise",
    "mixed": "takes the composition and the three axes of a molecule of the data, and shows some "
    "of the types of its atoms; where which atom lies is left to the network",
    "mixed_order": "takes the types of a molecule of the data in their order, and its three axes, "
    "and shows some of these types; where which atom lies is left to the network",
    "mixed_size": "takes the composition of a molecule of the data, shows some of the types of its "
    "atoms, and knows how far out atoms of a type lie; the form of single molecules is left to the "
    "network",
}
#: The same of molecules whose atoms have features and no elements.
_KNOWS_OF_ATOMS = {
    "shape": "takes the three axes{features} of a molecule of the data that has as many atoms as "
    "are asked for; which atom lies where is left to the network",
    "size": "knows how far atoms are from the centre of molecules of each size{features}; the form "
    "of single molecules is left to the network",
}
_FEATURES = {"shape": " and the average features", "size": ", and the averages of their features"}
#: The same of sets of tokens, which have no positions.
_KNOWS_OF_TOKENS = {
    "size": "knows the averages and the spread of the features in sets of each size; what tells "
    "the tokens of a set apart is left to the network",
}


@dataclass(frozen=True)
class Explanation:
    """What statistics are, in sentences.

    Attributes:
        title: Name of the data.
        paragraphs: Headings and the sentences below them.
        code: Lines to type next.
    """

    title: str
    paragraphs: tuple[tuple[str, str], ...]
    code: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The explanation as values that JSON has."""
        told = [{"heading": heading, "text": text} for heading, text in self.paragraphs]
        return {"title": self.title, "paragraphs": told, "code": list(self.code)}


def explain(stats: GAGAStats, name: str) -> Explanation:
    """What statistics of data are, where they start a sampler, and what is not known of that.

    Args:
        stats: Fitted statistics.
        name: Folder or name that the user called them, for the lines to type.
    """
    facts = report_facts(stats)
    parts = [
        ("What they are", _what(stats)),
        ("Where sampling can start", _where(facts)),
        ("How sure this is", _how_sure(stats)),
        ("What it saves", _saves(facts)),
        ("What the start knows", _knows(stats)),
        ("What to keep in mind", _in_mind(stats)),
    ]
    title = str(stats.provenance.get("data", name))
    return Explanation(title, tuple(part for part in parts if part[1]), _code(stats, name))


def explain_states(states: FittedStates, name: str) -> Explanation:
    """What statistics of noised states are, and where the loop of their codebase starts.

    Args:
        states: Statistics that `fit_states` made.
        name: Folder that the user called them, for the lines to type.
    """
    one, many = _items(states.layout)
    here = states.at(states.level_star)
    count = here.moments.count + here.n_held_out
    source = states.provenance.get("data")
    parts = (
        (
            "What they are",
            f"These statistics describe noised {many}{f' of {source}' if source else ''}, for a "
            "codebase that pairs its noise with its data. There the noised data do not follow "
            f"from the data alone, so they were measured at {len(states.measured)} levels of the "
            f"codebase's own time, which rises towards {states.towards}.",
        ),
        (
            "Where sampling can start",
            "Such a model makes a sample by taking noise away, step by step. In the noisier part "
            "of that way the data have left so little trace that a formula describes what is "
            f"there. For these data that part reaches from noise to level {states.level_star:g}, "
            "where a sampler can begin with a draw from the formula.",
        ),
        (
            "How sure this is",
            f"At that level a classifier compared {here.n_held_out:,} {many} that the formula had "
            f"not seen with draws from it, and found {here.value:.2f} ± {here.std_error:.2f} nats "
            f"per {one}, where {states.tolerance:g} were tolerated, with a margin of {MARGIN:g} "
            f"standard errors. {_nat(states.tolerance, one)} This is a lower bound: with more than "
            f"these {count:,} {many} the classifier would find more. Nothing is known of levels "
            "between those that were measured.",
        ),
        (
            "What it saves",
            "All steps of the codebase's loop that are noisier than that level are left out. Their "
            "number depends on the steps that the codebase takes.",
        ),
        (
            "What to keep in mind",
            "Compare samples from this start with samples of the full path before you rely on it.",
        ),
    )
    layout = states.layout
    drawn = str((8, *layout.shape)) if isinstance(layout, DenseLayout) else "sizes"
    code = (
        "from gaga_adapter import FittedStates",
        f"states = FittedStates.from_pretrained({_quoted(name)})",
        f"x = states.start().sample({drawn})  # then run your loop from states.level_star",
    )
    return Explanation(str(source or name), parts, code)


def _items(layout: Layout) -> tuple[str, str]:
    """What one item of the data is called, and several."""
    if isinstance(layout, DenseLayout):
        return "array", "arrays"
    if isinstance(layout, TokenLayout):
        return "set of tokens", "sets of tokens"
    return "molecule", "molecules"


def _what(stats: GAGAStats) -> str:
    layout, (_, many) = stats.layout, _items(stats.layout)
    source = stats.provenance.get("data")
    count = f"{stats.moments.count:,} {many}"
    if isinstance(layout, MoleculeLayout):
        elements = ", ".join(layout.elements)
        charge = "" if layout.charge_scale is None else ", an atomic number"
        held = f"whose atoms have a position{charge} and an element ({elements})"
    elif isinstance(layout, DenseLayout):
        held = f"each with {' x '.join(map(str, layout.shape))} numbers"
    elif isinstance(layout, TokenLayout):
        held = f"whose tokens have {_number(layout.n_features)} each"
    else:
        features = f" and {_number(layout.n_features)}" if layout.n_features else ""
        held = f"whose atoms have a position{features} each"
    table = ""
    if getattr(stats.moments, "table_size", 0) > 0:
        also = " and the composition" if isinstance(layout, MoleculeLayout) else ""
        if isinstance(layout, AtomLayout) and layout.n_features:
            also = " and the average features"
        table = f", and of some molecules the axes{also}"
    return (
        f"These statistics were made of {count}{f' of {source}' if source else ''}, {held}. They "
        f"hold averages of these data{table}, and no network."
    )


def _number(features: int) -> str:
    return f"{features} feature{'' if features == 1 else 's'}"


def _knows(stats: GAGAStats) -> str:
    """What the start knows of the data, and how it was refined."""
    kind, layout = stats.reference().kind, stats.layout
    knows = _KNOWS.get(kind)
    if isinstance(layout, TokenLayout):
        knows = _KNOWS_OF_TOKENS.get(kind, knows)
    elif isinstance(layout, AtomLayout) and kind in _KNOWS_OF_ATOMS:
        features = _FEATURES[kind] if layout.n_features else ""
        knows = _KNOWS_OF_ATOMS[kind].format(features=features)
    told = f"The start {knows}." if knows else ""
    if stats.refinement is not None:
        told += f" It is refined by {stats.refinement.describe()}."
    return told.strip()


def _where(facts: Facts) -> str:
    home, stats = facts.home, facts.stats
    told = (
        "A diffusion model makes a sample by taking noise away, step by step, from pure noise to "
        "data. In the noisier part of that way the data have left so little trace that a formula, "
        "a Gaussian, describes what is there, and a sampler can begin with a draw from it. "
    )
    if home.value is None:
        return told + (
            f"For these data that part begins at log-SNR {stats.log_snr_star:.3g}, beyond the end "
            f"of the usual schedule {home.schedule}, so that nothing can be left out there."
        )
    where = f"{home.text} of 1000" if home.kind == "timestep" else home.text
    told += f"For these data that part begins at {where} on the schedule {home.schedule}"
    if facts.home_interval is not None:
        low, high = facts.home_interval
        told += f", with a 90 % interval of {low:.0f} to {high:.0f}"
    return told + (
        ". This step is called t*; there noise of a standard deviation of "
        f"{stats.sigma_star:.2g}, in the units of the network, has been added to the data, which "
        "other schedules reach at other steps."
    )


def _nat(nats: float, item: str) -> str:
    """What so many nats mean for somebody who guesses."""
    share = 100 * right_guesses(nats)
    how_often = f"in {share:.0f} % of all cases at most" if share < 99.5 else "nearly always"
    return (
        "Nats measure how well two kinds of samples can be told apart: at 0 nats not at all, and "
        f"at {nats:g} nats somebody who sees one {item} and guesses which kind it is may be right "
        f"{how_often}, where chance gives 50 %."
    )


def _how_sure(stats: GAGAStats) -> str:
    chosen, (one, many) = stats.selection, _items(stats.layout)
    if chosen is None:
        return ""
    curve = chosen.curve
    star = "t*"
    if stats.log_snr_star not in (chosen.log_snr_star, *chosen.by_size.values()):
        star = f"log-SNR {chosen.log_snr_star:.3g}"  # another t* was put in its place
    judged = f"The criterion {curve.criterion} compared {curve.n_samples:,} {many}"
    if curve.unit == "p-value":
        return (
            f"{judged} with the Gaussian, and from {star} on towards noise it could not tell them "
            f"apart, with {100 * chosen.tolerance:g} % of false alarms. That does not say how far "
            "apart they are."
        )
    told = [
        f"{judged} with the Gaussian, and from {star} on towards noise it found no more than "
        f"{chosen.tolerance:g} nats per {one} between them, {MARGIN:g} standard errors included.",
        _nat(chosen.tolerance, one),
    ]
    steps = ""
    if len(chosen.by_items) > 1:
        found = [
            f"{round(value, 2) + 0.0:.2f} with {n:,}" for n, (value, _) in chosen.by_items.items()
        ]
        steps = f" (near {star} {', '.join(found[:-1])} and {found[-1]} {many})"
    grows = LOWER_BOUNDS.get(curve.criterion)
    if grows is None:
        told.append(f"What it found is an estimate, and no bound{steps}.")
    else:
        told.append(
            f"What it found is a lower bound: {grows} would find more, and move t* towards "
            f"noise{steps}."
        )
    if chosen.others:
        told.append(
            "Of several criteria this one chose the noisiest step; nearer to the data is that of "
            f"{' and that of '.join(chosen.others)}."
        )
    return " ".join(told)


def _saves(facts: Facts) -> str:
    if facts.stats.has_discrete_types:
        share = facts.home.share
        left = "" if share is None else f", {100 * (1 - share):.0f} % of a path with even steps"
        return f"A flow that starts there leaves out all of its noisier steps{left}."
    found = home_savings(facts.stats)
    if any(saving.kept is None for saving in found):
        return ""
    fewer = [
        f"{saving.kept} instead of {saving.full}"
        for saving in found
        if saving.kept is not None and saving.kept < saving.full
    ]
    if not fewer:
        return (
            f"Nothing with the ancestral sampler on {found[0].schedule}: its path ends where these "
            "data become Gaussian."
        )
    calls = " or ".join(part for part in (", ".join(fewer[:-1]), fewer[-1]) if part)
    return (
        f"The network is called less often: with the ancestral sampler on {found[0].schedule} "
        f"{calls} times. A FewStepScheduler makes as many calls as you ask for, such as "
        f"{FEW_STEPS}, and all of them between t* and the data."
    )


def _in_mind(stats: GAGAStats) -> str:
    told = list(cautions(stats))
    chosen = stats.selection
    if chosen is not None and chosen.curve.unit == "nats":
        worst = 100 * worst_share(0.66, chosen.tolerance)
        told.append(
            f"{chosen.tolerance:g} nats are no promise about samples: if 66 % of them are good on "
            f"the full path, this share may fall to {worst:.0f} % in the worst case."
        )
    told.append(
        "Compare some hundred samples from t* with as many of the full path. Under a condition, "
        "such as a class or a target, the start is further off than for all data together."
    )
    return " ".join(told)


def _code(stats: GAGAStats, name: str) -> tuple[str, ...]:
    if stats.has_discrete_types:
        return (
            "from gaga_adapter.integrations.flows.tabasco import apply_patch",
            f"handle = apply_patch(model, {_quoted(name)})  # model: your live FlowMatchingModel",
        )
    python = (
        "from gaga_adapter import GAGAScheduler",
        f"pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats={_quoted(name)})",
    )
    if stats.layout == MoleculeLayout():  # the model that ships makes such molecules
        line = f"gaga sample -n 64 --stats {shlex.quote(name)} --out samples.sdf"
        return (line, *python)
    unknown = sorted(set(getattr(stats.layout, "elements", ())) - set(MoleculeLayout().elements))
    if unknown:
        them = " and ".join((", ".join(unknown[:-1]), unknown[-1]) if unknown[1:] else unknown)
        note = f"# pipe: of a model that was trained with {them}; the one that ships was not"
        return (note, *python)
    if isinstance(stats.layout, MoleculeLayout):
        ours, its = stats.layout.describe(), MoleculeLayout().describe()
        return (f"# pipe: of a model with {ours}; the one that ships has {its}", *python)
    return python


def _quoted(name: str) -> str:
    """A name as Python writes it, in double quotes."""
    return json.dumps(name, ensure_ascii=False)
