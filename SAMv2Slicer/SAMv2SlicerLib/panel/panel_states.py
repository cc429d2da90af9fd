"""From facts to what the panel says: which state, which text, which buttons. Pure, so the whole table is tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from SAMv2SlicerLib import texts


@dataclass(frozen=True)
class Facts:
    """All that the tabs' texts depend on.

    :param torch: ``"ready"``, ``"missing"`` or ``"broken"``.
    :param patientMismatch: a text when the two volumes belong to different patients.
    :param stale: name of a volume that was modified since it was embedded.
    :param moved: name of a volume that was moved since the matches that are shown were found.
    :param unseen: name of a volume with results that no view shows.
    :param registered: what the selected output transform says of itself, empty without a result.
    :param secondsToEmbed: estimate for the volumes not embedded yet; None when nothing was measured so far.
    """

    torch: str = "ready"
    volumes: int = 0
    template: Optional[str] = None
    query: Optional[str] = None
    sameVolume: bool = False
    points: Optional[str] = None
    placed: int = 0
    isEmbedded: bool = False
    secondsToEmbed: Optional[float] = None
    isBusy: bool = False
    isCancelling: bool = False
    progressText: str = ""
    elapsedSeconds: float = 0.0
    needALook: int = 0
    matched: int = 0
    patientMismatch: str = ""
    stale: str = ""
    moved: str = ""
    unseen: str = ""
    registered: str = ""
    lesions: int = 0
    followUps: int = 0


@dataclass(frozen=True)
class PanelState:
    """What to show.

    :param glyph: one character in front of the text, together with it, never alone.
    :param offer: what the button beside the text does, one of OFFER_... or nothing.
    :param actionTip: tooltip of the action button; says what is missing when it is disabled.
    """

    name: str
    glyph: str
    text: str
    action: str
    actionEnabled: bool
    actionTip: str
    setUpVisible: bool = False
    sampleVisible: bool = False
    offer: str = ""


OFFER_CONTINUE, OFFER_REVIEW, OFFER_VIEWS, OFFER_SHOW = "continue", "review", "views", "show"

GLYPH_BUSY, GLYPH_OK, GLYPH_LOOK, GLYPH_MISSING = "\N{HORIZONTAL ELLIPSIS}", "\N{CHECK MARK}", "?", "!"


def matchState(facts: Facts) -> PanelState:
    """State of the Match tab; the first reason that applies wins."""
    action = texts.buttonMatch(facts.placed)
    if facts.isBusy:
        label = texts.stateCancelling() if facts.isCancelling else texts.buttonCancel()
        doing = texts.stateCancelling() if facts.isCancelling else facts.progressText
        text = texts.stateRunning(doing, facts.elapsedSeconds)
        return PanelState("busy", GLYPH_BUSY, text, label, not facts.isCancelling, texts.stateCancelledTip())
    blocked = _blocked(facts)
    if blocked is not None:
        name, cause, remedy = blocked
        return PanelState(
            name,
            GLYPH_MISSING,
            f"{cause} {remedy}",
            action,
            False,
            f"{cause} {remedy}",
            setUpVisible=facts.torch != "ready",
            sampleVisible=facts.volumes == 0,
        )
    attention = _attention(facts, action, facts.placed > 0, _tip(facts), texts.stateMoved)
    if attention is not None:
        return attention
    if facts.needALook:
        text = texts.stateNeedsALook(facts.needALook, facts.matched)
        return PanelState("uncertain", GLYPH_LOOK, text, action, facts.placed > 0, _tip(facts), offer=OFFER_REVIEW)
    if facts.matched:
        return PanelState(
            "matched", GLYPH_OK, texts.stateAllMatched(facts.matched), action, facts.placed > 0, _tip(facts)
        )
    if facts.isEmbedded:
        return PanelState(
            "ready", GLYPH_OK, texts.stateReady(facts.template or ""), action, facts.placed > 0, _tip(facts)
        )
    text = texts.stateReadyToEmbed()
    if facts.secondsToEmbed is not None:
        text = texts.stateReadyToEmbedSeconds(facts.secondsToEmbed)
    return PanelState("readyToEmbed", GLYPH_OK, text, action, facts.placed > 0, _tip(facts))


def _blocked(facts: Facts):
    """(state, cause, remedy) of the first thing that is missing, None when nothing is."""
    if facts.torch == "missing":
        return "notSetUp", texts.noTorchCause(), texts.noTorchRemedy()
    if facts.torch == "broken":
        return "notSetUp", texts.brokenTorchCause(), texts.brokenTorchRemedy()
    if facts.volumes == 0:
        return "noVolume", texts.noVolumesCause(), texts.noVolumeRemedy()
    if facts.template is None:
        return "noTemplate", texts.noTemplateCause(), texts.noTemplateRemedy()
    if facts.query is None:
        return "noQuery", texts.noQueryCause(), texts.noQueryRemedy()
    if facts.sameVolume:
        return "sameVolume", texts.sameVolumeCause(), texts.sameVolumeRemedy()
    return None


def _attention(facts: Facts, action: str, enabled: bool, tip: str, movedText) -> Optional[PanelState]:
    """What comes before all results: another patient, changed voxels, a moved scan."""
    if facts.patientMismatch:
        text = facts.patientMismatch
        return PanelState("otherPatient", GLYPH_LOOK, text, action, enabled, tip, offer=OFFER_CONTINUE)
    if facts.stale:
        return PanelState("stale", GLYPH_LOOK, texts.stateStale(facts.stale), action, enabled, tip)
    if facts.moved:
        return PanelState("moved", GLYPH_LOOK, movedText(facts.moved), action, enabled, tip)
    if facts.unseen:
        return PanelState(
            "unseen", GLYPH_LOOK, texts.stateUnseen(facts.unseen), action, enabled, tip, offer=OFFER_VIEWS
        )
    return None


def _tip(facts: Facts) -> str:
    if facts.placed == 0:
        return f"{texts.noPointsCause(facts.points)} {texts.noPointsRemedy()}"
    return texts.tipMatch()


def registerState(facts: Facts) -> PanelState:
    """State of the Register tab; ``template`` and ``query`` stand for fixed and moving."""
    action = texts.buttonRegister(facts.query or "", facts.template or "")
    if facts.isBusy:
        return matchState(facts)
    blocked = _blocked(facts)
    if blocked is not None and blocked[0] in ("notSetUp", "noVolume"):
        return replace(matchState(facts), action=action)
    if facts.template is None or facts.query is None:
        cause, remedy = texts.noPairCause(), texts.noPairRemedy()
    elif facts.sameVolume:
        cause, remedy = texts.sameRegistrationVolumeCause(), texts.sameRegistrationVolumeRemedy()
    else:
        text = texts.stateReadyToRegister(facts.query, facts.template)
        attention = _attention(facts, action, True, text, texts.stateMoved)
        if attention is not None:
            return attention
        if facts.registered == "uncertain":
            shown = texts.stateAlignedUncertain(facts.query, facts.template)
            return PanelState("uncertain", GLYPH_LOOK, shown, action, True, text)
        if facts.registered:
            return PanelState(
                "registered", GLYPH_OK, texts.stateAligned(facts.query, facts.template), action, True, text
            )
        return PanelState("ready", GLYPH_OK, text, action, True, text)
    return PanelState("incomplete", GLYPH_MISSING, f"{cause} {remedy}", action, False, f"{cause} {remedy}")


def trackState(facts: Facts) -> PanelState:
    """State of the Track tab; ``template`` stands for the baseline, ``matched`` for the findings so far."""
    action = texts.buttonTrack(facts.lesions, facts.followUps)
    if facts.isBusy:
        return matchState(facts)
    blocked = _blocked(facts)
    if blocked is not None and blocked[0] in ("notSetUp", "noVolume"):
        return replace(matchState(facts), action=action)
    missing = None
    if facts.template is None:
        missing = texts.noBaselineCause(), texts.noBaselineRemedy()
    elif facts.followUps == 0:
        missing = texts.noFollowUpCause(), texts.noFollowUpRemedy()
    elif facts.sameVolume:
        missing = texts.sameStudyCause(facts.template), texts.sameStudyRemedy()
    elif facts.lesions == 0:
        missing = texts.noLesionsCause(), texts.noLesionsRemedy()
    if missing is not None:
        text = " ".join(missing)
        return PanelState("incomplete", GLYPH_MISSING, text, action, False, text)
    attention = _attention(facts, action, True, texts.tipTrack(), texts.stateMovedStudy)
    if attention is not None:
        return attention
    if facts.needALook:
        text = texts.stateFindingsNeedALook(facts.needALook, facts.matched)
        return PanelState("uncertain", GLYPH_LOOK, text, action, True, texts.tipTrack(), offer=OFFER_REVIEW)
    if facts.matched:
        return PanelState("matched", GLYPH_OK, texts.stateTracked(facts.matched), action, True, texts.tipTrack())
    return PanelState("ready", GLYPH_OK, texts.stateReadyToTrack(), action, True, texts.tipTrack())


def landmarksState(facts: Facts) -> PanelState:
    """State of the Landmarks tab; ``template`` stands for the scan, ``placed`` for the landmarks that were found."""
    action = texts.buttonLandmarks(facts.template or "")
    if facts.isBusy:
        return matchState(facts)
    blocked = _blocked(facts)
    if blocked is not None and blocked[0] in ("notSetUp", "noVolume"):
        return replace(matchState(facts), action=action)
    if facts.template is None:
        text = f"{texts.noLandmarksVolumeCause()} {texts.noLandmarksVolumeRemedy()}"
        return PanelState("incomplete", GLYPH_MISSING, text, action, False, text)
    attention = _attention(facts, action, True, texts.tipLandmarks(), texts.stateMoved)
    if attention is not None:
        return replace(attention, offer=OFFER_SHOW) if attention.offer == OFFER_VIEWS else attention
    if facts.needALook:
        text = texts.stateLandmarksLook(facts.placed, facts.matched, facts.needALook)
        return PanelState("uncertain", GLYPH_LOOK, text, action, True, texts.tipLandmarks(), offer=OFFER_REVIEW)
    if facts.matched:
        text = texts.stateLandmarks(facts.placed, facts.matched)
        return PanelState("matched", GLYPH_OK, text, action, True, texts.tipLandmarks())
    text = texts.stateReadyForLandmarks(facts.template)
    return PanelState("ready", GLYPH_OK, text, action, True, texts.tipLandmarks())
