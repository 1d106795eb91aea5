"""The page: well-formed, alone, safe with hostile names, and its figures against closed forms."""

import base64
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
import toys

from gaga_adapter import GAGAStats
from gaga_adapter.cli.show import print_stats
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import StatsMismatchError, WriteError
from gaga_adapter.fitting import Verdict
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.noise.paths import starts
from gaga_adapter.report.card import card_section
from gaga_adapter.report.facts import Samples, report_facts, savings
from gaga_adapter.report.histograms import HeldOut, histograms
from gaga_adapter.report.page import report, write_report
from gaga_adapter.report.plot import Axis
from gaga_adapter.selection import Selection

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"q\""
LEVELS = (2.0, 1.0, 0.0, -1.0, -2.0)
VOID = {"meta", "link", "br", "stop", "img", "circle", "line", "rect"}


class Reader(HTMLParser):
    """Checks that elements nest, and keeps them with the text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.scripts, self.text = [], [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text += data


def chosen(unit="nats", value=(2.0, 1.0, 0.4, 0.1, -0.01)):
    curve = CriterionCurve("two_sample", "size", unit, LEVELS, value, (0.02,) * 5, 4000)
    sizes = {5: 0.5, 6: 0.3, 7: 0.1}
    return Selection(0.2, 0.5, curve, "two_sample <= 0.5", (0.1, 0.3), sizes)


@pytest.fixture(scope="module")
def data():
    return toys.chains(300, (4, 9))


@pytest.fixture(scope="module")
def molecules(data):
    """Statistics of molecules, and the data they were fitted on."""
    layout = MoleculeLayout(("H", "C"))
    x, mask = encode(data, layout)
    moments = ExchangeableMoments(layout.n_features)
    moments.update(x, mask)
    provenance = {"data": HOSTILE, HOSTILE: [HOSTILE], "versions": {"torch": HOSTILE}}
    return GAGAStats(layout, moments, 0.2, chosen(), provenance), HeldOut(HOSTILE, x, mask)


@pytest.fixture(scope="module")
def dense():
    """Statistics of Gaussian latents, whose mean and variance are known."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    x = 1.0 + scale * torch.randn(2000, 2, 4, 4, generator=generator)
    moments = DenseMoments((2, 4, 4))
    moments.update(x)
    return GAGAStats(DenseLayout((2, 4, 4)), moments, 0.2, None, {"data": "latents"}), x


@pytest.fixture(scope="module")
def page(molecules, data):
    stats, held_out = molecules
    p = CriterionCurve(
        "ks_mi", "size", "p-value", LEVELS, (0.0, 0.0, math.nan, 0.2, 0.9), (0,) * 5, 9
    )
    verdicts = {"ks_mi": Verdict(p, None, HOSTILE), "two_sample": Verdict(p, None, "too few")}
    samples = Samples(data.subset(slice(20)), HOSTILE, 27)
    return report(stats, held_out, verdicts, samples, written=HOSTILE)


def test_page_is_well_formed_alone_and_says_everything(page):
    read = Reader(page)
    for words in (
        "How Gaussian, at which noise", "What it saves", "The start against the data at t*",
        "Sampled molecules", "Metrics", "What was fitted", "tolerance 0.5 nats",
        "positions x, y, z", "27 network calls", "The first 16 of 20", "90 % interval",
        "not computable",
    ):  # fmt: skip
        assert words in read.text, words
    for tag, attributes in read.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        if "href" in attributes:
            assert attributes["href"].startswith("data:")
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    pictures = [
        a for tag, a in read.elements if tag == "svg" and "molecule " in a.get("aria-label", "")
    ]
    assert len(pictures) == 16
    tables = [tag for tag, _ in read.elements if tag == "table"]
    assert len(tables) == len([tag for tag, _ in read.elements if tag == "caption"])


def test_hostile_names_are_text(page):
    read = Reader(page)
    (script,) = [attributes for tag, attributes in read.elements if tag == "script"]
    assert script["type"] == "application/json"
    assert not [tag for tag, _ in read.elements if tag == "img"]
    assert read.text.count("<script>alert('x')</script>") >= 7


def test_json_in_the_page_and_of_the_link_is_that_of_the_statistics(page, molecules):
    stats, _ = molecules
    read = Reader(page)
    document = json.loads("".join(read.scripts))
    assert document["stats"] == json.loads(json.dumps(stats.to_dict()))
    (link,) = [a["href"] for tag, a in read.elements if tag == "a"]
    assert json.loads(base64.b64decode(link.split(",", 1)[1])) == document
    assert document["criteria"]["ks_mi"]["curve"]["value"][2] is None
    assert document["not_judged"]["ks_mi"] == HOSTILE
    assert document["samples"]["count"] == 20
    assert document["samples"]["metrics"][0]["name"] == "atoms stable"


def test_same_arguments_same_page(molecules):
    stats, held_out = molecules
    assert report(stats, held_out, seed=3) == report(stats, held_out, seed=3)


def test_dense_page_has_no_molecules_and_says_that_data_are_absent(dense):
    stats, _ = dense
    text = Reader(report(stats)).text
    assert "No data were given" in text
    assert "channel 1" in text
    assert "their t* was given" in text
    assert "Sampled molecules" not in text
    assert "v_x" not in text


def test_a_t_star_put_in_the_place_of_the_chosen_one_is_not_credited(molecules):
    stats, _ = molecules
    assert "as far as the two-sample criterion sees" in Reader(report(stats)).text
    text = Reader(report(stats.at_size(7))).text
    assert "as far as the two-sample criterion sees" not in text
    assert "This start was given" in text
    assert "t* by molecule size" in text


def test_histograms_have_the_moments_of_noised_data(dense):
    """Mean mu and variance C + sigma², within 5 standard errors (false alarms 6e-7 each)."""
    stats, x = dense
    found = histograms(stats, HeldOut("latents", x), torch.Generator().manual_seed(1))
    sigma = stats.sigma_star
    assert [h.name for h in found] == ["channel 0", "channel 1"]
    for histogram, scale in zip(found, (0.5, 2.0), strict=True):
        std, n = math.hypot(scale, sigma), 2000 * 16
        for key in ("data", "reference"):
            mean, spread = histogram.moments[key]
            assert mean == pytest.approx(1.0, abs=5 * std / math.sqrt(n) + 1e-3)
            assert spread == pytest.approx(std, abs=5 * std / math.sqrt(2 * n) + 1e-3)
        width = histogram.edges[1] - histogram.edges[0]
        for density in (histogram.data, histogram.reference):
            assert sum(density) * width == pytest.approx(0.996, abs=4e-3)
        middle = (histogram.edges[24] + histogram.edges[25]) / 2
        unfitted = histogram.moments["unfitted"][1]
        assert unfitted == pytest.approx(math.sqrt(1 + sigma**2))  # sd 1 over a of N(0, I)
        bell = math.exp(-0.5 * (middle / unfitted) ** 2) / unfitted / math.sqrt(2 * math.pi)
        assert histogram.unfitted[24] == pytest.approx(bell, rel=1e-3)


def test_histograms_of_molecules_are_in_angstrom(molecules):
    """Mean v_x of noised data is that of the moments plus sigma² (position scale 1)."""
    stats, held_out = molecules
    generator = torch.Generator().manual_seed(2)
    *_, size = histograms(stats, held_out, generator)
    moments = stats.moments
    weight = moments.counts / moments.counts.sum()
    expected = float((moments.v_x * weight).sum()) + stats.sigma_star**2
    assert size.unit == "Å²"
    for key in ("data", "reference"):
        mean, spread = size.moments[key]
        assert mean == pytest.approx(expected, abs=5 * spread / math.sqrt(300)), key
    *_, alone = histograms(stats, None, generator)
    assert alone.data is None
    assert alone.moments["reference"][0] == pytest.approx(
        expected, abs=5 * spread / math.sqrt(4000)
    )


def test_smaller_draws_than_the_padding_of_the_data(molecules):
    stats, held_out = molecules
    wide = torch.nn.functional.pad(held_out.x, (0, 0, 0, 3))
    mask = torch.nn.functional.pad(held_out.mask, (0, 3))
    found = histograms(stats, HeldOut("padded", wide, mask), torch.Generator().manual_seed(0))
    assert found[0].data is not None


def test_network_calls_are_those_beyond_t_star(dense):
    """DDIM's 50 leading steps: every 20th timestep from the last at or beyond t*, and the start."""
    stats, _ = dense
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    first = int((torch.logit(abar) <= 0.2).nonzero()[0])
    rows = {(s.schedule, s.solver, s.n_steps): s for s in savings(stats)}
    assert not [s for s, _, _ in rows if s.startswith("edm")]
    ddim = rows["ddpm/linear", "DDIM", 50]
    assert (ddim.full, ddim.kept) == (50, math.ceil(first / 20) + 1 + 1)
    places = {start.schedule: start for start in starts(0.2)}
    assert places["karras/edm"].value == pytest.approx(math.exp(-0.1))
    assert places["flow/linear"].value == pytest.approx(1 / (1 + math.exp(0.1)))


def test_show_card_and_page_say_the_same(dense, capsys):
    stats, _ = dense
    print_stats(stats)
    shown = capsys.readouterr().out
    card = card_section(stats, "me/latents", has_picture=False)
    text = Reader(report(stats)).text
    for start in starts(stats.log_snr_star):
        line = next(line for line in shown.splitlines() if start.schedule in line)
        assert start.text in line
        assert start.share_text in line
        assert f"| `{start.schedule}` | {start.text} | {start.share_text} |" in card
        assert f"{start.schedule}{start.text}\n{start.share_text}" in text


def test_schedules_that_never_get_that_noisy_are_named(dense):
    stats, _ = dense
    far = GAGAStats(stats.layout, stats.moments, -30.0, None, {"data": "latents"})
    found = report_facts(far)
    assert next(s for s in found.savings if s.schedule == "ddpm/linear").kept is None
    text = Reader(report(far)).text
    assert "latents never count as Gaussian on ddpm/linear" in text
    assert "not reached" in text


def test_data_of_another_layout_are_refused(molecules, dense):
    with pytest.raises(StatsMismatchError, match="latents has items of shape"):
        report(molecules[0], HeldOut("latents", dense[1]))
    with pytest.raises(StatsMismatchError, match="dense 2x4x4"):
        report(dense[0], molecules[1])


def test_page_is_written_whole_or_not_at_all(dense, tmp_path):
    found = report_facts(dense[0])
    write_report(tmp_path / "new" / "page.html", found)
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == report(dense[0])
    with pytest.raises(WriteError, match="cannot write"):
        write_report(tmp_path / "new", found)
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "page.html"]


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.2, 2.6), (0.0, 0.07), (2.5, -3.0), (0.0, 4e4)])
def test_ticks_are_round_and_inside(ends):
    ticks = Axis(*ends, 0, 100).ticks(5)
    assert 3 <= len(ticks) <= 11
    assert min(ends) - 1e-9 <= min(ticks) <= max(ticks) <= max(ends) + 1e-9
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_logarithmic_axis():
    axis = Axis(1e-2, 1e2, 200, 0, is_log=True)
    assert [axis(v) for v in (1e-3, 1e-2, 1.0, 1e2, 1e3)] == pytest.approx([200, 200, 100, 0, 0])
    assert axis.ticks(6) == [0.01, 0.1, 1.0, 10.0, 100.0]


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")
def test_a_browser_complains_of_nothing_and_nothing_sticks_out(page, tmp_path):
    """The page in frames as wide as a phone and a desk; a script outside of it measures."""
    frame = page.replace("&", "&amp;").replace('"', "&quot;")
    frames = "".join(f'<iframe srcdoc="{frame}" style="width:{w}px"></iframe>' for w in (360, 1200))
    measure = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(f => "
        "f.contentDocument.documentElement.scrollWidth + '/' + f.contentWindow.innerWidth); }"
    )
    file = tmp_path / "frames.html"
    file.write_text(f"<!doctype html><title></title>{frames}<script>{measure}</script>")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<title>360/360,1200/1200</title>" in done.stdout
