"""The picture of criterion curves: what is drawn where, and what is refused."""

import math

import pytest

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.errors import DataError, MissingExtraError, TruncationError
from gaga_adapter.noise.paths import named_path
from gaga_adapter.report.curves import draw_curves, save_curves
from gaga_adapter.selection import Selection, select

pytest.importorskip("matplotlib")

LEVELS = (2.0, 1.0, 0.0, -1.0, -2.0)


def curve(name="two_sample", unit="nats", value=(2.0, 1.0, 0.4, 0.1, -0.01), error=0.02):
    return CriterionCurve(name, "size", unit, LEVELS, value, (error,) * 5, 4000)


def p_values():
    return curve("ks_mi", "p-value", (0.0, 0.0, 0.001, 0.2, 0.9), 0.0)


def with_interval(made, low, high):
    return Selection(made.log_snr_star, made.tolerance, made.curve, made.reason, (low, high))


@pytest.mark.parametrize("path_name", ["edm/polynomial_2", "ddpm/linear"])
def test_each_unit_has_a_panel_and_each_curve_its_t_star(path_name):
    nats, p = curve(), p_values()
    chosen = {"two_sample": with_interval(select(nats), -4.0, 0.2), "ks_mi": select(p)}
    figure = draw_curves({"two_sample": nats, "ks_mi": p}, chosen, "rods", path_name)
    upper, lower = figure.axes
    assert [panel.get_ylabel() for panel in figure.axes] == ["divergence, nats per item", "p-value"]
    path = named_path(path_name)
    star, early, late = (
        path.index_at_log_snr(level) for level in (chosen["two_sample"].log_snr_star, 0.2, -4.0)
    )
    (label,) = (text.get_text() for text in upper.get_legend().get_texts())
    assert label == f"two_sample: t* = {star} ({early} to {late})"
    (label,) = (text.get_text() for text in lower.get_legend().get_texts())
    assert label == f"ks_mi: t* = {path.index_at_log_snr(-1.0)}"
    left, right = upper.get_xlim()
    assert left > 2.0 > -2.0 > right  # data on the left
    notes = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert notes == ["tolerance 0.5 nats", "tolerance 0.05 over 5 levels"]


def test_the_second_axis_counts_timesteps():
    figure = draw_curves({"two_sample": curve()}, {}, path_name="ddpm/linear")
    (panel,) = figure.axes
    (top,) = panel.child_axes
    figure.canvas.draw()
    ticks = dict(zip((t.get_text() for t in top.get_xticklabels()), top.get_xticks(), strict=True))
    path = named_path("ddpm/linear")
    assert len(ticks) >= 2
    for label, place in ticks.items():
        assert place == pytest.approx(float(path.log_snr(int(label) / 1000)))
    assert "ddpm/linear" in top.get_xlabel()
    assert panel.get_legend().get_texts()[0].get_text() == "two_sample: no t*"


def test_gaps_stay_gaps_and_values_below_the_floor_lie_on_it():
    made = curve(value=(2.0, math.nan, 0.4, 0.1, -0.01))
    figure = draw_curves({"two_sample": made}, {})
    heights = figure.axes[0].lines[-1].get_ydata()
    assert math.isnan(heights[1])
    assert heights[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_are_what_their_names_say(tmp_path, suffix):
    file = tmp_path / f"curve{suffix}"
    save_curves(file, {"two_sample": curve()}, {"two_sample": select(curve())})
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(head)
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"curve.txt. Name a file .png, .svg, .pdf"):
        save_curves(tmp_path / "curve.txt", {"two_sample": curve()}, {})
    with pytest.raises(DataError, match="no curve to draw"):
        draw_curves({}, {})
    with pytest.raises(TruncationError, match="unknown path 'edm'"):
        draw_curves({"two_sample": curve()}, {}, path_name="edm")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"gaga-adapter\[report\]"):
        save_curves(tmp_path / "curve.png", {"two_sample": curve()}, {})
    assert list(tmp_path.iterdir()) == []
