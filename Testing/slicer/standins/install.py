"""Puts the stand-ins where the module imports them from; once per process."""

import importlib
import os
import sys
import tempfile
import types

MODULE_FOLDER = os.path.join(os.path.dirname(__file__), "..", "..", "..", "SAMv2Slicer")

SOURCE_VARIABLE = "SLICER_SOURCE"
"""Environment variable with the path of a checkout of Slicer: its own parameter node wrapper then takes the place of
the stand-in, which shows whether that one is like it."""

_keepAlive = []


def install():
    """Make ``qt``, ``ctk``, ``slicer.app``, ``slicer.ScriptedLoadableModule``... importable; the ``slicer`` module."""
    import slicer
    import slicer.util

    if hasattr(slicer, "app"):
        return slicer
    from standins import qt_standin

    sys.modules["qt"] = qt_standin
    qt_standin.application()
    folder = tempfile.mkdtemp(prefix="samv2-slicer-")
    slicer.mrmlScene = slicer.vtkMRMLScene()

    from standins import application, ctk_standin, mrml_widgets, parameter_node_wrapper, scripted_module

    sys.modules["ctk"] = ctk_standin
    slicer.app = application.Application(folder)
    slicer.modules = application.Modules()
    slicer.modules.samv2slicer = type("module", (), {"path": os.path.join(MODULE_FOLDER, "SAMv2Slicer.py")})
    slicer.qSlicerScriptedLoadableModule = type("qSlicerScriptedLoadableModule", (), {})
    _keepAlive.append(application.connectScene(slicer.mrmlScene, slicer.app.applicationLogic(), folder))
    for name in ("qMRMLWidget", "qMRMLNodeComboBox", "qMRMLCheckableNodeComboBox"):
        setattr(slicer, name, getattr(mrml_widgets, name))
    source = os.environ.get(SOURCE_VARIABLE)
    if source:
        _useSlicersWrapper(source)
    else:
        _module(
            "slicer.parameterNodeWrapper",
            parameterNodeWrapper=parameter_node_wrapper.parameterNodeWrapper,
            WithinRange=parameter_node_wrapper.WithinRange,
        )
    _module("slicer.i18n", tr=_untranslated, translate=_untranslatedInContext)
    _module(
        "slicer.ScriptedLoadableModule",
        **{name: value for name, value in vars(scripted_module).items() if name.startswith("Scripted")},
    )
    return slicer


def _useSlicersWrapper(source):
    """Slicer's own parameterNodeWrapper, with empty classes for the widgets that it names and nobody here uses."""
    import slicer
    from PySide6 import QtWidgets

    def unused(name):
        if name.startswith(("ctk", "qMRML", "qSlicer")):
            return type(name, (QtWidgets.QWidget,), {})
        raise AttributeError(name)

    for module in (sys.modules["ctk"], slicer):
        module.__getattr__ = unused
    slicer.__path__.append(os.path.join(source, "Base", "Python", "slicer"))
    importlib.import_module("slicer.parameterNodeWrapper")


def _module(fullName, **content):
    module = types.ModuleType(fullName)
    vars(module).update(content)
    sys.modules[fullName] = module
    setattr(sys.modules["slicer"], fullName.split(".")[-1], module)


def _untranslated(text):
    return text


def _untranslatedInContext(context, text):
    return text
