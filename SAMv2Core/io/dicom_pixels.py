"""Stored values of DICOM images, frame by frame.

What is stored as it is, is read with numpy, straight from its place in the file. What is compressed is decoded by GDCM
(SimpleITK), which has known faults with damaged data: each frame is wrapped in a minimal file of its own and decoded in
a child process with a limit on its memory, whose death is an error like any other. Rescale and photometric
interpretation are the caller's business: values here are those that the scanner stored.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Iterator, List, Sequence

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import BIG_ENDIAN, Frame, Pixels, opened
from SAMv2Core.io.dicom_write import write_dataset

_DECODER_MEMORY = 2 << 30
_SECONDS, _SECONDS_PER_FRAME = 60.0, 2.0

# A program of its own, so that nothing of ours is loaded in it: reads names of files from its input, writes for each
# the type and the values.
_DECODER = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
import SimpleITK as sitk
sitk.ProcessObject.SetGlobalWarningDisplay(False)
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
reader = sitk.ImageFileReader()
reader.SetImageIO("GDCMImageIO")
for line in sys.stdin:
    reader.SetFileName(line.rstrip("\\n"))
    image = reader.Execute()
    array = sitk.GetArrayViewFromImage(image)
    sys.stdout.buffer.write(array.dtype.str[1:].encode().ljust(4) + array.tobytes())
    sys.stdout.buffer.flush()
"""


def stored_values(frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    """(rows, columns) integers of each frame, in order.

    :raises InputError: truncated, damaged, or a decoder that died; names the file.
    """
    start = 0
    while start < len(frames):
        is_compressed = frames[start].pixels.is_compressed
        stop = start
        while stop < len(frames) and frames[stop].pixels.is_compressed == is_compressed:
            stop += 1
        yield from (_decoded if is_compressed else _as_stored)(frames[start:stop])
        start = stop


def raw_bytes(frame: Frame) -> bytes:
    """The bytes of a frame as they lie in the file, to tell copies from others."""
    return _encoded(frame) if frame.pixels.is_compressed else _bytes_of(frame)


def _damaged(frame: Frame, reason: str) -> InputError:
    return InputError(f"{frame.path} is truncated or damaged ({reason}).", "Export the series again.")


def _bytes_of(frame: Frame) -> bytes:
    pixels = frame.pixels
    start = pixels.offset + frame.index * pixels.frame_bytes
    with opened(frame.path, pixels.syntax) as stream:
        stream.seek(start)
        content = stream.read(pixels.frame_bytes)
    if len(content) < pixels.frame_bytes:
        raise _damaged(frame, f"{len(content)} of {pixels.frame_bytes} bytes of pixels are there")
    return content


def _as_stored(frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    for frame in frames:
        pixels = frame.pixels
        order = ">" if pixels.syntax == BIG_ENDIAN else "<"
        kind = f"{order}{'i' if pixels.is_signed else 'u'}{pixels.bits_allocated // 8}"
        values = np.frombuffer(_bytes_of(frame), kind).reshape(pixels.rows, pixels.columns)
        yield _without_other_bits(values.astype(values.dtype.newbyteorder("="), copy=False), pixels)


def _without_other_bits(values: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Only the bits that hold the value: others may hold overlays. The sign is that of the highest stored bit."""
    above = pixels.bits_allocated - 1 - pixels.high_bit
    below = pixels.high_bit + 1 - pixels.bits_stored
    if (not above and not below) or above < 0 or below < 0:
        return values
    return (values << above) >> (above + below)


def _encoded(frame: Frame) -> bytes:
    """The compressed bytes of one frame."""
    return _fragments(frame)[frame.index]


def _fragments(frame: Frame) -> List[bytes]:
    """The compressed bytes of every frame of a file."""
    from pydicom import encaps

    pixels = frame.pixels
    with open(frame.path, "rb") as stream:
        stream.seek(pixels.offset)
        content = stream.read(pixels.n_bytes)
    try:
        if hasattr(encaps, "generate_frames"):  # pydicom 3
            found = list(encaps.generate_frames(content, number_of_frames=pixels.n_frames))
        else:
            found = list(encaps.generate_pixel_data_frame(content, pixels.n_frames))
    except Exception as error:  # whatever damaged data makes of it
        raise _damaged(frame, f"its compressed pixels: {type(error).__name__}") from error
    if len(found) < pixels.n_frames:
        raise _damaged(frame, f"{len(found)} of {pixels.n_frames} frames are there")
    return found


def _decoded(frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="samv2-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-c", _DECODER, str(_DECODER_MEMORY + 8 * max(_n_bytes(frame) for frame in frames))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        watch = threading.Timer(_SECONDS + _SECONDS_PER_FRAME * len(frames), child.kill)
        watch.start()
        try:
            path, fragments = None, []
            for frame in frames:
                if frame.path != path:
                    path, fragments = frame.path, _fragments(frame)
                yield _decoded_by(child, frame, fragments[frame.index], Path(folder, "frame.dcm"))
        finally:
            watch.cancel()
            child.kill()
            child.communicate()


def _n_bytes(frame: Frame) -> int:
    return frame.pixels.rows * frame.pixels.columns * 8


def _decoded_by(child: Any, frame: Frame, encoded: bytes, path: Path) -> np.ndarray:
    _write_alone(frame, encoded, path)
    shape = (frame.pixels.rows, frame.pixels.columns)
    try:
        child.stdin.write(f"{path}\n".encode())
        child.stdin.flush()
        kind = np.dtype(child.stdout.read(4).decode("ascii").strip() or "V")
        content = _exactly(child.stdout, kind.itemsize * shape[0] * shape[1])
    except (OSError, TypeError, ValueError):
        content = b""
    if not content:
        code = child.wait()
        how = f"signal {-code}" if code < 0 else "an error"
        raise _damaged(frame, f"the decoder of its compressed pixels ended with {how}")
    return np.frombuffer(content, kind).reshape(shape)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    content = stream.read(count)
    return content if len(content) == count else b""


def _write_alone(frame: Frame, encoded: bytes, path: Path) -> None:
    """One compressed frame as a file of its own that says no more than the decoder needs."""
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import SecondaryCaptureImageStorage

    pixels = frame.pixels
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = pixels.rows, pixels.columns, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        pixels.bits_allocated, pixels.bits_stored, pixels.high_bit,
    )  # fmt: skip
    dataset.PixelRepresentation = int(pixels.is_signed)
    dataset.PixelData = encapsulate([encoded])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(pixels.syntax)
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
    write_dataset(dataset, path)
