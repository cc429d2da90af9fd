"""Writing a DICOM file with pydicom 2 (3D Slicer 5.8, Python 3.9) and later ones, which name the options otherwise; and
what has written it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, Any, Dict, Union

from SAMv2Core.io.files import PathLike
from SAMv2Core.io.uids import uid_of

PRODUCT, MANUFACTURER, MODEL_NAME = "SAMv2 for 3D Slicer", "SlicerSAMv2", "SAMv2"


@dataclass(frozen=True)
class Device:
    """This software with these weights, as DICOM objects name it.

    :param version: of the software; :param model: name of the weights; :param sha256: of the weights; "" when unknown.
    """

    version: str
    model: str = ""
    sha256: str = ""

    @property
    def uid(self) -> str:
        """Of this version with these weights, whoever runs it."""
        return uid_of("device", PRODUCT, self.version, self.sha256)

    @property
    def serial_number(self) -> str:
        """Software has none; its weights are what tells one from another."""
        return self.sha256[:16] or "unknown"

    def equipment(self) -> Dict[str, str]:
        """Keywords and values of the General Equipment module (PS3.3 C.7.5.1)."""
        return {
            "Manufacturer": MANUFACTURER,
            "ManufacturerModelName": MODEL_NAME,
            "SoftwareVersions": self.version or "unknown",
            "DeviceSerialNumber": self.serial_number,
        }

    def describe(self, dataset: Any) -> None:
        """Put the equipment into an object, and itself as what has contributed to it (IHE AI Results, 6.5.3.1)."""
        import pydicom

        purpose, item = pydicom.Dataset(), pydicom.Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
        item.PurposeOfReferenceCodeSequence = pydicom.Sequence([purpose])
        item.DeviceUID = self.uid
        for keyword, value in self.equipment().items():
            setattr(item, keyword, value)
            setattr(dataset, keyword, value)
        dataset.ContributingEquipmentSequence = pydicom.Sequence([item])


def write_dataset(dataset: Any, target: Union[PathLike, IO[bytes]]) -> None:
    """Write a ``pydicom.Dataset`` as a whole DICOM file, explicit VR little endian, with preamble and meta information.

    :param dataset: with ``file_meta`` and its transfer syntax.
    """
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        pydicom.dcmwrite(target, dataset, write_like_original=False)
    else:
        pydicom.dcmwrite(target, dataset, enforce_file_format=True)
