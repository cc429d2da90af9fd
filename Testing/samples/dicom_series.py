"""A small CT series written with pydicom: what a scanner would have sent."""

import datetime

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING_MM = (2.0, 2.0, 4.0)
ORIGIN_LPS = (-20.0, -30.0, 100.0)


def writeSeries(folder, patientID="P1", date="20240301", slices=3):
    """The files of one series; positions as in SPACING_MM and ORIGIN_LPS."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = []
    for n in range(slices):
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
        ds.ImagePositionPatient = [ORIGIN_LPS[0], ORIGIN_LPS[1], ORIGIN_LPS[2] + n * SPACING_MM[2]]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
        ds.Rows = ds.Columns = 8
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        ds.PixelData = np.zeros((8, 8), np.int16).tobytes()
        ds.save_as(str(path), enforce_file_format=True)
        files.append(str(path))
    return files
