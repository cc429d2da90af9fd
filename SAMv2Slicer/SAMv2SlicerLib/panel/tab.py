"""What the panel wants of each of its tabs, and what all tabs do alike."""

from __future__ import annotations

from typing import Any, List, Optional

import slicer

from SAMv2SlicerLib.panel.panel_states import Facts, PanelState


class Tab:
    """Inputs, one action button and its result. Everything worth keeping is in the parameter node or in the scene.

    :param ui: the child widgets of the .ui file by name.
    :param panel: see panel.py.
    """

    review: Any = None
    """Judges the tab's results one by one (review.py); None where there is nothing to judge."""

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self.logic = panel.logic
        self.job: Optional[Any] = None
        """What the action button started, while it runs."""

    # --- inputs --------------------------------------------------------------------------------------------------

    def chooseDefaults(self) -> None:
        """Fill empty inputs; chosen ones are never changed."""

    def parametersChanged(self) -> None:
        """Follow the parameter node where its own connections to widgets do not."""

    def volumes(self) -> List[Any]:
        """The selected volumes, perhaps with None among them: what the model has to cope with."""
        raise NotImplementedError

    def warnings(self) -> List[str]:
        """What the user accepts with Continue."""
        raise NotImplementedError

    def toggleFollow(self) -> None:
        """Follow the cursor, or no longer: in the pair of scans, unless a tab has others."""
        self.panel.matchTab.toggleFollow()

    def noteAction(self, *unused: Any) -> None:
        """The user did something with the selected result; for whoever counts."""

    # --- work ----------------------------------------------------------------------------------------------------

    def isRunning(self) -> bool:
        """Whether what the action button started still runs."""
        return self.job is not None

    def fraction(self) -> float:
        return self.job.fraction if self.job is not None else 0.0

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    # --- what is shown -------------------------------------------------------------------------------------------

    def state(self) -> PanelState:
        raise NotImplementedError

    def refresh(self, withResults: bool) -> None:
        """Show the facts in the tab's widgets; without results while only the progress changes."""
        raise NotImplementedError

    def showViews(self) -> None:
        """Bring the scans that nobody can see into view."""

    def hold(self, isHeld: bool) -> None:
        """Say nothing for selectors while a scene is being loaded."""

    def exit(self) -> None:
        """The module is left: give back what was changed in the views."""

    def forget(self) -> None:
        """The scene closes."""
        self.job = None
        self.exit()

    def commonFacts(self, **others: Any) -> Facts:
        """What the state of every tab depends on, and what else is known."""
        job = self.panel.visibleJob()
        known = {
            "torch": self.panel.torchState(),
            "volumes": slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"),
            "isBusy": job is not None,
            "isCancelling": job is not None and job.isCancelling(),
            "progressText": job.text if job is not None else "",
            "elapsedSeconds": job.elapsed() if job is not None else 0.0,
        }
        return Facts(**{**known, **others})
