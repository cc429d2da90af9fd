"""``slicer.ScriptedLoadableModule``: the four base classes of a scripted module."""

import unittest

import slicer


class ScriptedLoadableModule:
    """The module object; ``parent`` receives title, categories, texts."""

    def __init__(self, parent):
        super().__init__()
        self.parent = parent
        self.moduleName = self.__class__.__name__
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}

    def getDefaultModuleDocumentationLink(self, docPage=None):
        return ""


class ScriptedLoadableModuleWidget:
    """The panel; ``parent`` is a qMRMLWidget with a layout, and must be given here."""

    def __init__(self, parent):
        super().__init__()
        self.moduleName = self.__class__.__name__[: -len("Widget")]
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, filename):
        import os

        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Gives the module's parameter node, a singleton in the scene."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = self.__class__.__name__[: -len("Logic")]
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        className = "vtkMRMLScriptedModuleNode"
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, className)
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass(className)
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of the module's own test."""

    def __init__(self, methodName="runTest", **kwargs):
        super().__init__(methodName)
        self.messageDelay = 0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        pass

    def runTest(self):
        pass
