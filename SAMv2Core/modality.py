"""temporary"""
import numpy as np
CT_OFFSET = 1024.0
def is_offset_ct(volume): return False
def detect_modality(volume):
    if volume.modality: return volume.modality, "DICOM tag"
    return ("ct","air") if volume.array.min() < -500 else ("mr","no negative values")
