"""Translating the texts of a file in its own context, which is given once.

``slicer.i18n.tr`` finds the context out from the stack at every call, which takes two thirds of its time (9 us instead
of 3). The context is the same: Slicer's update_translations.py collects all that a file calls ``_`` with under the
name of its package and its own.
"""

from __future__ import annotations

import logging
from string import Formatter
from typing import Callable, Optional, Set, Tuple

from slicer.i18n import translate

logger = logging.getLogger(__name__)


def translator(moduleName: str) -> Callable[[str], str]:
    """What translates the texts of a file, to be named ``_`` there, else nobody collects them.

    As with ``tr``, a translation with other placeholders than the text is not used, since filling it in would raise.

    :param moduleName: ``__name__`` of the file, which lies in a package.
    """
    context = ".".join(moduleName.split(".")[-2:])

    def translated(text: str) -> str:
        found = translate(context, text)
        if found == text or _placeholders(found) == _placeholders(text):
            return found
        logger.warning("The translation of %r in %s has other placeholders: %r", text, context, found)
        return text

    return translated


def _placeholders(text: str) -> Optional[Set[Tuple[Optional[str], ...]]]:
    """(name, format, conversion) of each; None where braces do not match."""
    try:
        return {tuple(said) for _, *said in Formatter().parse(text) if said[0] is not None}
    except ValueError:
        return None
