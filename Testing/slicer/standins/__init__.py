"""Stand-ins for the parts of the Slicer application that the PyPI package ``slicer-core`` does not contain.

``slicer-core`` brings the real MRML scene, nodes, logics, displayable managers and ``slicer.util``; none of these is
ever replaced here. It has no Qt, so these are stood in for:

=========================== ===========================================================================================
``qt``, ``ctk``             PySide6 with its ``true_property`` feature, which gives PythonQt's property style; the
                            module may use only names that a real Slicer confirmed (pythonqt.py)
``slicer.app``, modules     application.py: module manager, settings, events; no main window
layout manager              layout_manager.py (fixture ``windows``): real layout and slice logics
``qMRML*``, ``qSlicer*``    mrml_widgets.py: selectors on the real scene with the signals and methods the module uses
``ScriptedLoadableModule``  scripted_module.py: the four base classes
``parameterNodeWrapper``    parameter_node_wrapper.py: typed properties on a real ``vtkMRMLScriptedModuleNode``; with
                            ``SLICER_SOURCE=<checkout of Slicer>`` its own; both are compared by
                            test_parameter_node_wrapper.py
``slicer.i18n``             ``tr`` returns its argument
=========================== ===========================================================================================

A stand-in has only what the module uses and is stricter than Slicer rather than more lenient: a name that Slicer does
not have is an AttributeError here too.
"""
