"""The engine: everything about a training run that no recipe should have to think of.

Devices, precision, accumulation and processes (Lightning Fabric), drawing in the background, checkpoints that survive a
kill, validation, logs. What is trained is a :class:`Training.engine.task.Task`; how, a
:class:`Training.engine.recipe.Recipe`.
"""
