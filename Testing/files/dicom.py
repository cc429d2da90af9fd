"""DICOM folders and multi-frame files as scanners, archives and converters leave them; written with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from SAMv2Core.io.dicom_write import write_dataset
from Testing.files.scan import N_SLICES, SCAN, SPACING_MM

CT_IMAGE, ENHANCED_CT, SEGMENTATION = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "2.1", "66.4"))
ROOT = "1.2.826.0.1.3680043.8.498.22"
SERIES, OTHER_SERIES = f"{ROOT}.8.1", f"{ROOT}.8.2"
FIRST = SCAN.ijk_to_lps[:3, 3]


def position_of(k: int) -> np.ndarray:
    return FIRST + [0, 0, SPACING_MM[2] * k]


def dataset(sop_class: str, uid: str, syntax: str = ExplicitVRLittleEndian) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = sop_class, uid
    image.Modality, image.PatientName, image.PatientID = "CT", "Secret^Name", "SECRET-7"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = f"{ROOT}.9", SERIES, f"{ROOT}.7"
    return image


def set_pixels(image: Any, values: np.ndarray, intercept: int = -1024) -> None:
    """Unsigned 16-bit values with an intercept, as CT has them; (rows, columns) or (frames, rows, columns)."""
    image.Rows, image.Columns = values.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = 1, intercept
    image.PixelData = (values.astype(np.int32) - intercept).astype("<u2").tobytes()


def save(image: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataset(image, path)
    return path


def write_slices(
    folder: Path,
    change: Optional[Callable[[Any, int], Any]] = None,
    *,
    slices: Sequence[int] = range(N_SLICES),
    offset: int = 0,
    series: str = SERIES,
    array: np.ndarray = SCAN.array,
) -> Path:
    """One file per slice; ``change(image, k)`` edits each before it is written.

    :param offset: added to instance numbers and names.
    """
    for k in slices:
        number = k + 1 + offset
        image = dataset(CT_IMAGE, f"{ROOT}.1.{series.rsplit('.', 1)[-1]}.{number}")
        image.SeriesInstanceUID, image.InstanceNumber = series, number
        image.ImagePositionPatient = [f"{value:.6f}" for value in position_of(k)]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
        set_pixels(image, array[k])
        if change is not None:
            change(image, k)
        save(image, folder / f"IM{number:04d}.dcm")
    return folder


def item(**values: Any) -> pydicom.Dataset:
    found = pydicom.Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def macro(keyword: str, **values: Any) -> Dict[str, Any]:
    return {keyword: pydicom.Sequence([item(**values)])}


def write_multiframe(
    path: Path,
    slices: Sequence[int] = range(N_SLICES),
    position: Optional[Callable[[int], Sequence[float]]] = position_of,
    frame: Optional[Callable[[int, int], Dict[str, Any]]] = None,
    array: np.ndarray = SCAN.array,
) -> Path:
    """An Enhanced CT whose n-th frame shows slice ``slices[n]``; ``frame(n, k)`` adds functional groups to it."""
    image = dataset(ENHANCED_CT, f"{ROOT}.5.1")
    set_pixels(image, array[list(slices)])
    image.NumberOfFrames = len(slices)
    del image.RescaleSlope, image.RescaleIntercept
    image.SharedFunctionalGroupsSequence = [
        item(
            **macro("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            **macro("PixelMeasuresSequence", PixelSpacing=[SPACING_MM[1], SPACING_MM[0]], SliceThickness=5),
            **macro("PixelValueTransformationSequence", RescaleSlope=1, RescaleIntercept=-1024),
        )
    ]
    groups = []
    for n, k in enumerate(slices):
        own = item(**(frame(n, k) if frame is not None else {}))
        if position is not None:
            own.PlanePositionSequence = [item(ImagePositionPatient=[f"{value:.5f}" for value in position(k)])]
        groups.append(own)
    image.PerFrameFunctionalGroupsSequence = groups
    return save(image, path)


def write_segmentation(path: Path, masks: Dict[str, np.ndarray]) -> Path:
    """A DICOM SEG of one bit per voxel: (z, y, x) masks on the scan's grid by name, empty slices left out."""
    image = dataset(SEGMENTATION, f"{ROOT}.6.1")
    image.Modality, image.SeriesInstanceUID = "SEG", f"{ROOT}.8.9"
    image.SegmentationType = "BINARY"
    image.SegmentSequence = [
        item(SegmentNumber=n, SegmentLabel=name, SegmentAlgorithmType="MANUAL") for n, name in enumerate(masks, 1)
    ]
    frames, groups = [], []
    for n, mask in enumerate(masks.values(), 1):
        for k in np.flatnonzero(mask.any(axis=(1, 2))):
            frames.append(mask[k])
            groups.append(
                item(
                    **macro("PlanePositionSequence", ImagePositionPatient=[f"{v:.5f}" for v in position_of(int(k))]),
                    **macro("SegmentIdentificationSequence", ReferencedSegmentNumber=n),
                )
            )
    image.Rows, image.Columns = SCAN.array.shape[1:]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.NumberOfFrames = 1, "MONOCHROME2", len(frames)
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 1, 1, 0, 0
    image.SharedFunctionalGroupsSequence = [
        item(
            **macro("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            **macro(
                "PixelMeasuresSequence", PixelSpacing=[SPACING_MM[1], SPACING_MM[0]], SliceThickness=5,
                SpacingBetweenSlices=SPACING_MM[2],
            ),
        )
    ]  # fmt: skip
    image.PerFrameFunctionalGroupsSequence = groups
    bits = np.packbits(np.array(frames, np.uint8).ravel(), bitorder="little").tobytes()
    image.PixelData = bits + b"\0" * (len(bits) % 2)
    image["PixelData"].VR = "OB"
    return save(image, path)


# --- the kinds ----------------------------------------------------------------------------------------------------


def write_slices_plain(folder: Path) -> Path:
    return write_slices(folder / "plain")


def frames_in_any_order(folder: Path) -> Path:
    return write_multiframe(folder / "random.dcm", np.random.default_rng(2).permutation(N_SLICES).tolist())


def frames_missing(folder: Path) -> Path:
    return write_multiframe(folder / "gap.dcm", [k for k in range(N_SLICES) if k not in (5, 6)])


def frames_with_their_own_slope(folder: Path) -> Path:
    """Each frame stores its values with another slope; what is shown is the scan."""
    slopes = [1 + 0.5 * (k % 3) for k in range(N_SLICES)]
    stored = np.stack([np.round((SCAN.array[k] + 1024) / slopes[k]) - 1024 for k in range(N_SLICES)])
    return write_multiframe(
        folder / "slopes.dcm",
        frame=lambda n, k: macro("PixelValueTransformationSequence", RescaleSlope=slopes[k], RescaleIntercept=-1024),
        array=stored,
    )


def frames_without_positions(folder: Path) -> Path:
    return write_multiframe(folder / "nowhere.dcm", position=None)


def frames_of_two_phases(folder: Path) -> Path:
    """Time point 1 shows the scan, time point 2 the scan 100 HU brighter."""
    array = np.concatenate([SCAN.array, SCAN.array + 100])
    return write_multiframe(
        folder / "phases.dcm",
        range(2 * N_SLICES),
        lambda k: position_of(k % N_SLICES),
        lambda n, k: macro("FrameContentSequence", TemporalPositionIndex=1 + k // N_SLICES),
        array,
    )


def tilted_frames(folder: Path) -> Path:
    """Slices that move 1 mm to posterior each, as a tilted gantry makes them."""
    return write_multiframe(folder / "tilt.dcm", position=lambda k: position_of(k) + [0, k, 0])


def segmentation_beside(folder: Path) -> Path:
    write_slices(folder / "both")
    write_segmentation(folder / "both" / "seg.dcm", two_lesions())
    return folder / "both"


def two_lesions() -> Dict[str, np.ndarray]:
    masks = {name: np.zeros(SCAN.array.shape, bool) for name in ("Liver met", "Läsion 2")}
    masks["Liver met"][2:5, 2:5, 1:4] = True
    masks["Läsion 2"][4:9, 3:7, 3:6] = True  # overlaps the first one
    return masks


def jittered_orientation(folder: Path) -> Path:
    """Cosines around a rounding edge: 0.0125 +- 2e-6."""
    noise = np.random.default_rng(3).uniform(-2e-6, 2e-6, N_SLICES)

    def change(image: Any, k: int) -> None:
        sine = 0.0125 + noise[k]
        cosine = np.sqrt(1 - sine**2)
        image.ImageOrientationPatient = [f"{v:.9g}" for v in (cosine, sine, 0, -sine, cosine, 0)]

    return write_slices(folder / "jitter", change)


def shifted_in_plane(folder: Path, shift: Sequence[float] = (8.0, 0.0)) -> Path:
    """Slices 4 to 6 lie elsewhere in their plane, and their pixels with them, so that the anatomy is where it was."""
    array = SCAN.array.copy()
    n_columns, n_rows = (round(mm / spacing) for mm, spacing in zip(shift, SPACING_MM))
    for k in (4, 5, 6):
        array[k] = np.roll(array[k], (-n_rows, -n_columns), axis=(0, 1))

    def change(image: Any, k: int) -> None:
        if k in (4, 5, 6):
            image.ImagePositionPatient = [f"{v:.6f}" for v in position_of(k) + [*shift, 0]]

    return write_slices(folder / "shifted", change, array=array)


def every_file_twice(folder: Path) -> Path:
    write_slices(folder / "twice" / "export 1")
    write_slices(folder / "twice" / "export 2")
    return folder / "twice"


def one_series_per_slice(folder: Path) -> Path:
    def change(image: Any, k: int) -> None:
        image.SeriesInstanceUID = f"{ROOT}.80.{k + 1}"

    return write_slices(folder / "split", change)


def interleaved(folder: Path, **marks: Sequence[Any]) -> Path:
    """Two acquisitions half a slice apart; ``marks``: what tells them apart, keyword=(first, second)."""

    def change(image: Any, k: int, which: int) -> None:
        position = position_of(k) + [0, 0, 2.5 * which]
        image.ImagePositionPatient = [f"{value:.6f}" for value in position]
        for keyword, values in marks.items():
            if values[which] is not None:
                setattr(image, keyword, values[which](k) if callable(values[which]) else values[which])

    write_slices(folder / "mixed", lambda image, k: change(image, k, 0))
    return write_slices(folder / "mixed", lambda image, k: change(image, k, 1), offset=100, array=SCAN.array + 100)


def without(folder: Path, keyword: str) -> Path:
    return write_slices(folder / "without", lambda image, k: delattr(image, keyword))


def damaged_beside(folder: Path) -> Path:
    write_slices(folder / "damaged")
    other = folder / "damaged" / "other.dcm"
    write_slices(folder / "x", slices=[0], series=OTHER_SERIES)
    other.write_bytes((folder / "x" / "IM0001.dcm").read_bytes()[:-60])
    return folder / "damaged"


def jpeg_xl(folder: Path) -> Path:
    """Pixels nobody here can decode, by their transfer syntax."""

    def change(image: Any, k: int) -> None:
        image.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        image.PixelData = pydicom.encaps.encapsulate([b"\xff\x0a" + bytes(40)])
        image["PixelData"].is_undefined_length = True

    # pydicom refuses to write a syntax that it does not know, so a name of the same length is replaced.
    for path in write_slices(folder / "jxl", change).iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.100", b"1.2.840.10008.1.2.4.110", 1))
    return folder / "jxl"


def stray_picture(folder: Path) -> Path:
    """One derived picture 400 mm above."""
    write_slices(folder / "stray")

    def change(image: Any, k: int) -> None:
        image.ImagePositionPatient = [f"{v:.6f}" for v in position_of(N_SLICES - 1) + [0, 0, 400]]
        image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]

    return write_slices(folder / "stray", change, slices=[0], offset=900)


def uneven(folder: Path) -> Path:
    """Increments of 1 to 7 mm; the value at each place is a straight line over depth."""
    depths = np.cumsum([0, 1, 2, 3, 7, 5, 1, 4, 6, 2, 3, 5]).astype(float)
    array = np.broadcast_to((10 * depths)[:, None, None], SCAN.array.shape)

    def change(image: Any, k: int) -> None:
        image.ImagePositionPatient = [f"{v:.6f}" for v in FIRST + [0, 0, depths[k]]]

    return write_slices(folder / "uneven", change, array=array)


def monochrome1(folder: Path) -> Path:
    return write_slices(folder / "mono", lambda image, k: setattr(image, "PhotometricInterpretation", "MONOCHROME1"))
