"""The picture of onboarding."""

import jax
import numpy as np
from cases.onboarding import fake_row

from pl2d_ppl.experiments.methods import METHODS
from pl2d_ppl.experiments.plots import plot_onboarding


def make_report(methods=METHODS, contexts=("10", "20"), seeds=2):
    rows = [
        [fake_row(jax.random.key(s), m, int(c), (0.0, 0.5, 1.0)) for s in range(seeds)]
        for c in contexts
        for m in methods
    ]
    columns = [{name: [row[name] for row in over_seeds] for name in over_seeds[0]} for over_seeds in rows]
    n = len(methods)
    results = {c: dict(zip(methods, columns[i * n : (i + 1) * n], strict=True)) for i, c in enumerate(contexts)}
    return {"results": results, "alone": {"ai": [0.8, 0.9][:seeds], "best_person": [0.7, 0.9][:seeds]}}


def test_the_picture_has_a_panel_for_every_number_of_context_items():
    report = make_report()
    figure = plot_onboarding(report)
    assert [ax.get_title() for ax in figure.axes] == ["10 context items", "20 context items"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    for label, method in zip(labels, METHODS, strict=False):
        areas = ", ".join(f"{np.mean(report['results'][c][method]['area_offset']):.1f}" for c in ("10", "20"))
        assert label == f"{method} ({areas})"
    assert labels[len(METHODS) :] == ["AI alone", "best person alone"]
    assert legend.get_window_extent().x0 >= figure.axes[-1].get_window_extent().x1  # beside, not on, the curves
    for ax in figure.axes:
        means = [line for line in ax.lines if line.get_marker() not in ("None", None)]
        assert len(means) == len(METHODS)
        assert len({(line.get_color(), line.get_marker()) for line in means}) == len(METHODS)
        assert len({line.get_color() for line in means}) == len(METHODS)
        assert len({line.get_marker() for line in means}) == len(METHODS)
        assert len(ax.lines) == 3 * len(METHODS) + 2
        np.testing.assert_allclose([line.get_ydata()[0] for line in ax.lines[-2:]], [0.85, 0.8])
    drawn = figure.axes[1].lines[2].get_xydata()  # of the first method, after its two seeds
    row = report["results"]["20"][METHODS[0]]
    np.testing.assert_allclose(drawn, np.stack([np.mean(row[k], 0) for k in ("coverage_offset", "accuracy_offset")], 1))


def test_gaps_of_a_report_that_was_read_are_left_out_of_the_picture():
    report = make_report(("naive",), ("10",))
    report["results"]["10"]["naive"]["accuracy_offset"][0][1] = None
    alone = report["results"]["10"]["naive"]["accuracy_offset"][1][1]
    report["results"]["10"]["naive"]["area_offset"][0] = None
    figure = plot_onboarding(report)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.axes[0].lines[2].get_ydata()[1] == alone  # the mean is over the other seed
    assert labels[0] == f"naive ({report['results']['10']['naive']['area_offset'][1]:.1f})"
