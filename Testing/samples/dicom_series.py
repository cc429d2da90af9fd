"""A small CT series written with pydicom: what a scanner would have sent."""

import datetime

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from SAMv2Core.io.dicom_write import write_dataset

SPACING_MM = (2.0, 2.0, 4.0)
ORIGIN_LPS = (-20.0, -30.0, 100.0)


def writeSeries(folder, patientID="P1", date="20240301", slices=3, volume=None):
    """The files of one series; positions as in SPACING_MM and ORIGIN_LPS, or those of an upright volume (int16)."""
    array = np.zeros((slices, 8, 8), np.int16) if volume is None else volume.array.astype(np.int16)
    origin = ORIGIN_LPS if volume is None else volume.ijk_to_lps[:3, 3]
    spacing = SPACING_MM if volume is None else volume.grid.spacing_ijk_mm
    folder.mkdir(exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for n, pixels in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{n}.dcm"
        ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = patientID, "Phantom^CT", "", "O"
        ds.StudyDate = ds.ContentDate = date
        ds.StudyTime = ds.ContentTime = datetime.time(12).strftime("%H%M%S")
        ds.Modality, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "CT", "1", "", ""
        ds.SeriesNumber, ds.InstanceNumber = 1, n + 1
        ds.ImagePositionPatient = [float(origin[0]), float(origin[1]), float(origin[2] + n * spacing[2])]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = pixels.tobytes()
        write_dataset(ds, path)
        files.append(str(path))
    return files
