"""Setting up PyTorch: the one question that is asked, and how it went; and the devices."""

from __future__ import annotations

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def setupConsent(size: str, folder: str) -> str:
    return _(
        "SAMv2 needs PyTorch, which is not installed in this Slicer.\n\n"
        "What: PyTorch, through Slicer's PyTorch extension, which is installed first if it is missing (BSD license)\n"
        "Size: {size}\n"
        "Folder: {folder}\n\n"
        "The matching model is already part of this extension. Nothing else is downloaded and nothing is uploaded.\n\n"
        "Set up now?"
    ).format(size=size, folder=folder)


def setupExtensionMissing() -> str:
    return _(
        "The PyTorch extension is not installed. Install it with the Extensions Manager, restart Slicer, and press"
        " Set up again."
    )


def setupExtensionWorking() -> str:
    return _(
        "Fetching the PyTorch extension from Slicer's extensions server. This takes a minute and cannot be stopped."
    )


def setupExtensionFailed() -> str:
    return _(
        "The PyTorch extension could not be installed from Slicer's extensions server. Check the internet connection,"
        " or install it with the Extensions Manager (there also from a file), restart Slicer, and press Set up again."
    )


def setupOffline() -> str:
    return _(
        "no connection to the Python package index. Connect to the internet, or set the proxy (environment variable"
        " HTTPS_PROXY), and press Set up again."
    )


def setupRestart() -> str:
    return _("The PyTorch extension was installed. Restart Slicer, open this module and press Set up again.")


def setupPending() -> str:
    return _("Slicer was restarted; Set up can go on: press it once more.")


def headlessSetup(variable: str) -> str:
    return _("Set the environment variable {variable}=1 to allow installing it, or use Set up in the module.").format(
        variable=variable
    )


def setupDone(device: str) -> str:
    return _("Ready on {device}. Try the sample data.").format(device=device)


def setupWorking(line: str) -> str:
    return _("Setting up. Downloading and unpacking take some minutes; now and then nothing moves.") + f"\n{line}"


def setupCanceled() -> str:
    return _("Set up was canceled. Press Set up again to start over; what was half installed is removed then.")


def setupDeclined() -> str:
    return _("Set up was not started; nothing was changed.")


def setupFailed(reason: str) -> str:
    return _("Set up stopped: {reason}").format(reason=reason)


def setupDiskFull(freeGiB: float, neededGiB: float, folder: str) -> str:
    return _("{free:.1f} GB are free in {folder}, {needed:.0f} GB are needed. Free some space and try again.").format(
        free=freeGiB, needed=neededGiB, folder=folder
    )


def setupNotWritable(folder: str) -> str:
    return _("{folder} cannot be written. Install Slicer where you may write, or ask its administrator.").format(
        folder=folder
    )


def setupPathTooLong(folder: str) -> str:
    return _("The path {folder} is too long for Windows. Install Slicer in a shorter one, such as C:\\Slicer.").format(
        folder=folder
    )


def deviceNow(device: str) -> str:
    return _("Now: {device}.").format(device=device)


def deviceCPU(threads: int) -> str:
    if threads == 1:
        return _("CPU, 1 thread")
    return _("CPU, {threads} threads").format(threads=threads)


def setupTight(freeGB: float, neededGB: float) -> str:
    return _(
        "{free:.1f} GB are free there: enough for a build for the CPU, not for one for an NVIDIA GPU ({needed:.0f} GB)."
    ).format(free=freeGB, needed=neededGB)
