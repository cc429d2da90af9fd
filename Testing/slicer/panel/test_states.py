"""The table of states, texts and buttons of the panel."""

from dataclasses import replace

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

from SAMv2SlicerLib.panel.panel_states import Facts, matchState, registerState, trackState

READY = Facts(volumes=2, template="A", query="B", points="F", placed=2)


@pytest.mark.parametrize(
    "facts, name, words, enabled",
    [
        (replace(READY, torch="missing"), "notSetUp", "PyTorch is not installed", False),
        (replace(READY, torch="broken"), "notSetUp", "Restart Slicer", False),
        (Facts(), "noVolume", "Load two scans", False),
        (Facts(volumes=1, template="A"), "noQuery", "Scan B is not", False),
        (replace(READY, sameVolume=True), "sameVolume", "Choose another scan B", False),
        (READY, "readyToEmbed", "computes its embedding", True),
        (replace(READY, secondsToEmbed=12.4), "readyToEmbed", "about 12 s on this computer", True),
        (replace(READY, isEmbedded=True), "ready", "Click a point in A", True),
        (replace(READY, isEmbedded=True, placed=0), "ready", "Click a point in A", False),
        (replace(READY, matched=7, needALook=2), "uncertain", "2 of 7 points need a look", True),
        (replace(READY, matched=7), "matched", "7 points matched", True),
        (replace(READY, patientMismatch="PatientID differs"), "otherPatient", "PatientID differs", True),
        (replace(READY, matched=7, needALook=2, stale="A"), "stale", "A changed; its embedding will be", True),
        (replace(READY, matched=7, moved="B"), "moved", "B was moved after matching", True),
        (replace(READY, isBusy=True, progressText="Embedding A", elapsedSeconds=3), "busy", "Embedding A (3 s)", True),
        (replace(READY, isBusy=True, isCancelling=True), "busy", "", False),
    ],
)
def test_match_states(facts, name, words, enabled):
    state = matchState(facts)
    assert (state.name, state.actionEnabled) == (name, enabled)
    assert words in state.text and state.glyph


def test_the_button_says_what_is_missing():
    assert "has no placed points" in matchState(replace(READY, isEmbedded=True, placed=0)).actionTip
    assert "No point list" in matchState(replace(READY, points=None, placed=0)).actionTip


def test_set_up_and_sample_data_are_offered_only_when_needed():
    assert matchState(replace(READY, torch="missing")).setUpVisible and not matchState(READY).setUpVisible
    assert matchState(Facts()).sampleVisible and not matchState(READY).sampleVisible


def test_each_offer_has_a_button_and_a_tip():
    from SAMv2SlicerLib import texts

    for facts in (replace(READY, patientMismatch="PatientID differs"), replace(READY, matched=2, needALook=1)):
        offer = matchState(facts).offer
        assert texts.offerText(offer) and texts.offerTip(offer)
    assert not matchState(READY).offer and texts.offerText("") == ""


def test_register_states():
    assert registerState(replace(READY, registered="registered")).name == "registered"
    assert "uncertainly" in registerState(replace(READY, registered="uncertain")).text
    assert registerState(replace(READY, registered="registered", stale="A")).name == "stale"
    assert registerState(READY).action == "Register B \N{RIGHTWARDS ARROW} A" and registerState(READY).actionEnabled
    assert "same scan" in registerState(replace(READY, sameVolume=True)).text
    assert not registerState(Facts(volumes=1, template="A")).actionEnabled
    assert registerState(replace(READY, isBusy=True)).action == "Cancel"
    assert registerState(replace(READY, torch="missing")).setUpVisible


def test_forbidden_words_are_nowhere():
    """The panel proposes places; it does not judge patients (UX: what must never happen)."""
    from pathlib import Path

    module = Path(__file__).resolve().parents[3] / "SAMv2Slicer"
    files = [path for path in (module / "SAMv2SlicerLib" / "texts").glob("*.py") if path.name != "__init__.py"]
    shown = "".join(path.read_text(encoding="utf-8") for path in files)
    assert len(files) > 6
    shown += (module / "Resources" / "UI" / "SAMv2Slicer.ui").read_text(encoding="utf-8")
    shown = shown.replace("Unequivocal progression", "")  # what RECIST calls it, where the reader says so, not we
    for word in ("accuracy", "accurate", "diagnos", "progression", "response"):
        assert word not in shown.lower()


TRACK = Facts(volumes=3, template="A", followUps=2, lesions=3)


@pytest.mark.parametrize(
    "facts, name, words, enabled",
    [
        (replace(TRACK, torch="missing"), "notSetUp", "PyTorch is not installed", False),
        (Facts(), "noVolume", "Load two scans", False),
        (replace(TRACK, template=None), "incomplete", "Scan A, the baseline", False),
        (replace(TRACK, followUps=0), "incomplete", "No follow-up", False),
        (replace(TRACK, lesions=0), "incomplete", "No lesion is marked", False),
        (TRACK, "ready", "Ready to track", True),
        (replace(TRACK, matched=6, needALook=2), "uncertain", "2 of 6 findings need a look", True),
        (replace(TRACK, matched=6), "matched", "6 findings", True),
        (replace(TRACK, patientMismatch="PatientID differs"), "otherPatient", "PatientID differs", True),
        (replace(TRACK, matched=6, moved="C"), "moved", "C was moved after tracking", True),
    ],
)
def test_track_states(facts, name, words, enabled):
    state = trackState(facts)
    assert (state.name, state.actionEnabled) == (name, enabled) and words in state.text
    assert state.action.startswith("Track")
