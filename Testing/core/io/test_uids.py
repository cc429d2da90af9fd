"""UIDs as DICOM wants them; those that follow from something follow from all of it."""

import pydicom

from SAMv2Core.io.uids import new_uid, uid_of


def test_all_are_valid_and_new_ones_differ():
    found = [new_uid() for _ in range(50)] + [uid_of("report", n) for n in range(50)]
    assert len(set(found)) == 100
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") for uid in found)


def test_a_uid_follows_from_kind_and_parts_in_every_process_and_version():
    # By hand: uuid5 of the namespace and the text "('report', '1.2.3', 4.0)". Archives know these: they never change.
    assert uid_of("report", "1.2.3", 4.0) == "2.25.319091838605814308875307477756715221203"
    others = [uid_of("series", "1.2.3", 4.0), uid_of("report", "1.2.34.0"), uid_of("report", "1.2.3", "4.0")]
    assert len({uid_of("report", "1.2.3", 4.0), *others}) == 4
