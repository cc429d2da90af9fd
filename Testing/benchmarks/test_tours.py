"""The table of times in the real application."""

import pytest

from Testing.benchmarks import tours


def _report(factor, outcome="passed"):
    window = {"longest_ms": 100 * factor}
    click = {"quick_s": 0.1 * factor, "shown_s": 0.2 * factor, "refined_s": 0.3 * factor}
    alone = {"a point and three views, shown_s": [0.05], "places of a cursor, per_s": 16.2, "layout": window}
    alone.update({"window, a point and three views": window, "window, places of a cursor": window})
    times = {
        "click 1": {"quick_s": 9.0, "shown_s": 9.0, "refined_s": 9.0},
        "click 2": click,
        "click 3": click,
        "clicks while embedding": [click],
        "follow cursor": {"per_s": 10.0 * factor},
        "follow cursor while embedding": {"per_s": 8.0 * factor},
        "window": {"click": window, "followCursor": window, "sideBySide": window},
        "Slicer alone": alone,
    }
    return {"steps": {"click": outcome}, "times": times, "facts": {"window": [1280, 800]}}


def test_the_first_click_which_embeds_is_left_out_and_slicer_stands_beside():
    rows = {row["what"]: row for row in tours.rows_of([_report(1), _report(2)])}
    assert rows["click to first match in the scene, s"]["with the module"] == "0.15 (0.10 to 0.20)"
    assert rows["click to first match drawn in the query, s"]["Slicer alone"] == "0.05 (0.05 to 0.05)"
    places = rows["places of a moving cursor per second, while another scan is embedded"]
    assert (places["with the module"], places["Slicer alone"]) == ("12.0 (8.0 to 16.0)", "16.2 (16.2 to 16.2)")
    assert len(tours.to_markdown(list(rows.values())).splitlines()) == len(rows) + 2


def test_rows_of_a_smaller_window_say_so_and_hang_on_drawing():
    rows = {row["what"]: row for row in tours.of_smaller([_report(1)])}
    assert rows["places of a moving cursor per second; window of 1280 × 800"]["with the module"] == "10.0"
    assert len(rows) == 5 and not any("click" in what for what in rows)


def test_figures_of_a_tour_that_failed_are_not_published(tmp_path, capsys):
    import json

    path = tmp_path / "report.json"
    path.write_text(json.dumps(_report(1, "Traceback (most recent call last): ...")), encoding="utf-8")
    with pytest.raises(SystemExit):
        tours.main(["--tours", str(path), "--publish"])
    assert "click" in capsys.readouterr().err
