"""DICOM folders and multi-frame files as scanners, archives and converters leave them; written with pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from SAMv2Core.io.dicom_write import write_dataset
from Testing.files.scan import N_SLICES, SCAN, SPACING_MM, two_lesions

_STORAGE = "1.2.840.10008.5.1.4.1.1"
CT_IMAGE, ENHANCED_CT, SEGMENTATION = (f"{_STORAGE}.{n}" for n in ("2", "2.1", "66.4"))
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


def frames_of_equal_phases(folder: Path) -> Path:
    """Both time points show the same: two volumes all the same."""
    return write_multiframe(
        folder / "equal phases.dcm",
        [*range(N_SLICES), *range(N_SLICES)],
        frame=lambda n, k: macro("FrameContentSequence", TemporalPositionIndex=1 + n // N_SLICES),
    )


def tilted_frames(folder: Path) -> Path:
    """Slices that move 1 mm to posterior each, as a tilted gantry makes them."""
    return write_multiframe(folder / "tilt.dcm", position=lambda k: position_of(k) + [0, k, 0])


def segmentation_beside(folder: Path) -> Path:
    write_slices(folder / "both")
    write_segmentation(folder / "both" / "seg.dcm", two_lesions())
    return folder / "both"


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


def objects_beside(folder: Path) -> Path:
    """A plan's structures and doses with the CT; the doses have frames, of which only the first says where it lies."""
    write_slices(folder / "plan")
    save(structures(), folder / "plan" / "structures.dcm")
    doses = dataset(f"{_STORAGE}.481.2", f"{ROOT}.21")
    doses.Modality, doses.SeriesInstanceUID = "RTDOSE", f"{ROOT}.8.21"
    set_pixels(doses, SCAN.array, 0)
    doses.NumberOfFrames, doses.GridFrameOffsetVector = N_SLICES, [SPACING_MM[2] * k for k in range(N_SLICES)]
    doses.ImagePositionPatient, doses.ImageOrientationPatient = [float(v) for v in FIRST], [1, 0, 0, 0, 1, 0]
    doses.PixelSpacing = [SPACING_MM[1], SPACING_MM[0]]
    save(doses, folder / "plan" / "doses.dcm")
    return folder / "plan"


def structures() -> FileDataset:
    image = dataset(f"{_STORAGE}.481.3", f"{ROOT}.20")
    image.Modality, image.SeriesInstanceUID = "RTSTRUCT", f"{ROOT}.8.20"
    return image


def structures_alone(folder: Path) -> Path:
    return save(structures(), folder / "structures.dcm")


def without_suffix(folder: Path) -> Path:
    """A multi-frame file named by its UID."""
    return frames_in_any_order(folder).rename(folder / "1.2.840.113619.2.55")


def page_of_doses(folder: Path) -> Path:
    """A gray page without a place in the series of the CT."""
    page = dataset(f"{_STORAGE}.7", f"{ROOT}.22")
    page.InstanceNumber = 999
    set_pixels(page, np.zeros((4, 4)), 0)
    save(page, write_slices(folder / "page") / "page.dcm")
    return folder / "page"


def cut_header(folder: Path) -> Path:
    path = write_slices(folder / "cut") / "IM0004.dcm"
    path.write_bytes(path.read_bytes()[:300])
    return folder / "cut"


def one_position(folder: Path, kind: str = "") -> Path:
    """What an anonymizer left of the positions; or, as ``kind``, mosaics: pictures of many slices each."""

    def change(image: Any, k: int) -> None:
        image.ImagePositionPatient = [0, 0, 0]
        image.ImageType = ["ORIGINAL", "PRIMARY", *([kind] if kind else [])]

    return write_slices(folder / "still", change)


def slope_of_zero(folder: Path) -> Path:
    return write_slices(folder / "zero", lambda image, k: setattr(image, "RescaleSlope", 0))


def intercept_in_some(folder: Path) -> Path:
    return write_slices(folder / "some", lambda image, k: delattr(image, "RescaleIntercept") if k % 2 else None)


def intercept_with_a_comma(folder: Path) -> Path:
    """A decimal comma, which DICOM does not know."""
    for path in write_slices(folder / "comma").iterdir():
        path.write_bytes(path.read_bytes().replace(b"-1024.0", b"-1024,0"))
    return folder / "comma"


def values_through_a_table(folder: Path) -> Path:
    def change(image: Any, k: int) -> None:
        image.ModalityLUTSequence = [item(LUTDescriptor=[2, 0, 16], ModalityLUTType="HU", LUTData=bytes(4))]
        image.ModalityLUTSequence[0]["LUTData"].VR = "OW"

    return write_slices(folder / "table", change)


def palette(folder: Path) -> Path:
    return write_slices(
        folder / "palette", lambda image, k: setattr(image, "PhotometricInterpretation", "PALETTE COLOR")
    )


def turned_by(folder: Path, radians: float = 8e-4) -> Path:
    """Slices turned about their first pixel by up to so much."""
    angles = np.random.default_rng(5).uniform(-radians, radians, N_SLICES)

    def change(image: Any, k: int) -> None:
        sine, cosine = np.sin(angles[k]), np.cos(angles[k])
        image.ImageOrientationPatient = [f"{v:.8f}" for v in (cosine, sine, 0, -sine, cosine, 0)]

    return write_slices(folder / "turned", change)


def compressed_copies(folder: Path) -> Path:
    """The same images, as they are and compressed."""
    write_slices(folder / "both" / "plain")
    for path in write_slices(folder / "both" / "compressed").iterdir():
        image = pydicom.dcmread(path)
        image.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        image.save_as(path)
    return folder / "both"


def renamed_copies(folder: Path) -> Path:
    """The same bytes under other UIDs, as after two anonymizations."""
    write_slices(folder / "renamed")
    return write_slices(folder / "renamed", lambda image, k: setattr(image, "InstanceNumber", k + 1), offset=100)


def phases_with_blank_slices(folder: Path) -> Path:
    """Two phases that nothing tells apart; their ends are equal."""
    first = SCAN.array.copy()
    first[[0, -1]] = -1000
    second = first + 100
    second[[0, -1]] = -1000
    write_slices(folder / "blank", array=first)
    return write_slices(folder / "blank", offset=100, array=second)


def phases_of_unequal_length(folder: Path) -> Path:
    write_slices(folder / "unequal", slices=[k for k in range(N_SLICES) if k not in (3, 8)])
    return write_slices(folder / "unequal", offset=100, array=SCAN.array + 100)


def series_per_slice_twice(folder: Path) -> Path:
    def change(image: Any, k: int) -> None:
        image.SeriesInstanceUID = f"{ROOT}.80.{k + 1}"

    for name in ("export 1", "export 2"):
        write_slices(folder / "split twice" / name, change)
    return folder / "split twice"


def thicker_farther_apart(folder: Path) -> Path:
    """Slices of 5 mm, and from the ninth on of 10 mm, 10 mm apart: none is missing."""

    def change(image: Any, k: int) -> None:
        image.ImagePositionPatient = [*FIRST[:2], FIRST[2] + (5 * k if k < 9 else 10 * k - 40)]
        image.SliceThickness = 5 if k < 9 else 10

    return write_slices(folder / "thicker", change)


def part_of_a_concatenation(folder: Path) -> Path:
    image = pydicom.dcmread(write_multiframe(folder / "part.dcm", range(7)))
    image.InConcatenationNumber, image.InConcatenationTotalNumber = 1, 2
    return save(image, folder / "part.dcm")


def _segmentation_with(folder: Path, change: Callable[[Any, np.ndarray], None]) -> Path:
    """A DICOM SEG with other pixels; ``change(image, masks)`` gets (frames, rows, columns) of 0 and 1."""
    path = write_segmentation(folder / "seg.dcm", two_lesions())
    image = pydicom.dcmread(path)
    shape = (int(image.NumberOfFrames), *SCAN.array.shape[1:])
    bits = np.unpackbits(np.frombuffer(image.PixelData, np.uint8), bitorder="little")
    change(image, bits[: np.prod(shape)].reshape(shape))
    return save(image, path)


def fractional_segmentation(folder: Path) -> Path:
    def change(image: Any, masks: np.ndarray) -> None:
        image.SegmentationType, image.MaximumFractionalValue = "FRACTIONAL", 255
        image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
        image.PixelData = (masks * 255).astype(np.uint8).tobytes()

    return _segmentation_with(folder, change)


def deflated_segmentation(folder: Path) -> Path:
    def change(image: Any, masks: np.ndarray) -> None:
        image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian

    return _segmentation_with(folder, change)


def label_map_on_255(folder: Path) -> Path:
    """A label map whose outside is 255 (Pixel Padding Value) and a segment of its own."""

    def change(image: Any, masks: np.ndarray) -> None:
        first, second = two_lesions().values()
        labels = np.where(first, 1, np.where(second, 2, 255)).astype(np.uint8)
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = f"{_STORAGE}.66.7"
        image.SegmentationType, image.NumberOfFrames = "LABELMAP", N_SLICES
        image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
        image.add_new("PixelPaddingValue", "US", 255)
        image.SegmentSequence.append(item(SegmentNumber=255, SegmentLabel="Background"))
        image.PerFrameFunctionalGroupsSequence = [
            item(**macro("PlanePositionSequence", ImagePositionPatient=[f"{v:.5f}" for v in position_of(k)]))
            for k in range(N_SLICES)
        ]
        image.PixelData = labels.tobytes()

    return _segmentation_with(folder, change)
