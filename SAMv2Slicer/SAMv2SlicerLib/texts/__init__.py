"""Every sentence that a user of the module can read, so that wording is judged and translated in one place.

Each function returns a finished, translated text; placeholders are filled after translation. Rules (from the panel's
design): cause before remedy, no jargon where a word does, never the words accuracy, diagnosis, progression or
response, and a status is always a word, not only a color.
"""

from SAMv2SlicerLib.texts.compute import *  # noqa: F403
from SAMv2SlicerLib.texts.errors import *  # noqa: F403
from SAMv2SlicerLib.texts.landmarks import *  # noqa: F403
from SAMv2SlicerLib.texts.lesions import *  # noqa: F403
from SAMv2SlicerLib.texts.models import *  # noqa: F403
from SAMv2SlicerLib.texts.setup import *  # noqa: F403
from SAMv2SlicerLib.texts.status import *  # noqa: F403
from SAMv2SlicerLib.texts.widgets import *  # noqa: F403
