"""Archives that speak DICOMweb (PS3.18): what they hold of a patient (QIDO-RS), a series of it as files here (WADO-RS),
a report stored in them (STOW-RS).

A series is named by its address, ``https://host/dicom-web/studies/UID/series/UID``, a report by that of its instance;
so an archive's scans can be named wherever a file can. Needs the package *dicomweb-client*, imported when it is used.

Who we are: user and password from the user's netrc file, or a token (Bearer) in the variable ``SAMV2_DICOMWEB_TOKEN``,
which is not sent in the clear beyond this computer. Nothing of what is asked or answered is logged.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional
from urllib.parse import urlsplit

from SAMv2Core.errors import InputError, OutputError, SAMv2Error, UsageError
from SAMv2Core.io.archive import (
    MIN_IMAGES,
    MODALITIES,
    WANTED,
    ArchivedReport,
    ArchivedSeries,
    Contents,
    is_image,
    is_report_of_measurements,
    report_from,
    series_from,
    text_of,
)
from SAMv2Core.io.dicom_header import quiet_pydicom
from SAMv2Core.progress import Progress, silent

REQUIREMENT = "samv2[dicomweb]"
TOKEN_VARIABLE = "SAMV2_DICOMWEB_TOKEN"
#: Without any byte of an answer; an archive may have to fetch a study from tape first.
_SECONDS = 120.0
#: A server that is being restarted, or busy, is asked again, after 1, 2, 4 s.
_ATTEMPTS = 4
_WAIT_MS = 500


class Address(NamedTuple):
    """Where something lies: the service, the UIDs; instance is "" for a whole series."""

    service: str
    study: str
    series: str
    instance: str

    def __str__(self) -> str:
        path = f"{self.service}/studies/{self.study}/series/{self.series}"
        return f"{path}/instances/{self.instance}" if self.instance else path


def is_service(text: str) -> bool:
    """Whether it is the address of a server, and no path."""
    return text.lower().startswith(("http://", "https://"))


def is_address(text: str) -> bool:
    """Whether it is the address of a series or an instance."""
    return is_service(text) and "/studies/" in text


def address_of(text: str) -> Address:
    """The parts of an address.

    :raises InputError: it names no series.
    """
    service, _, rest = text.rstrip("/").partition("/studies/")
    parts = rest.split("/")
    if len(parts) == 3 and parts[1] == "series" and all(parts):
        return Address(service, parts[0], parts[2], "")
    if len(parts) == 5 and parts[1::2] == ["series", "instances"] and all(parts):
        return Address(service, parts[0], parts[2], parts[4])
    raise InputError(f"{text} is no address of a DICOM series.", "Write https://…/studies/UID/series/UID.")


def fetch(address: str, folder: Path) -> Path:
    """A series as a folder of files in ``folder``, an instance as a file.

    :raises InputError: the server does not answer, or has nothing there.
    """
    at = address_of(address)
    with _asking(at.service) as client, quiet_pydicom():
        if at.instance:
            found: Iterable[Any] = [client.retrieve_instance(at.study, at.series, at.instance)]
        else:
            found = client.iter_series(at.study, at.series)
        number = 0
        for number, dataset in enumerate(found, 1):
            dataset.save_as(folder / f"{number:06d}.dcm")
    if not number:
        raise InputError(f"{address} holds nothing.", "Ask the archive for the study.")
    return folder / "000001.dcm" if at.instance else folder


def check(address: str) -> None:
    """Whether something is there, without fetching it.

    :raises InputError: the server does not answer, or has nothing there.
    """
    at = address_of(address)
    filters = {"SOPInstanceUID": at.instance} if at.instance else {}
    with _asking(at.service) as client:
        if not client.search_for_instances(at.study, at.series, limit=1, search_filters=filters):
            raise InputError(f"{address} holds nothing.", "Ask the archive for the study.")


def store(service: str, path: Path) -> None:
    """Store a DICOM file in an archive.

    :raises OutputError: the archive does not answer, or does not take it.
    """
    import pydicom

    with quiet_pydicom():
        dataset = pydicom.dcmread(path)
    try:
        with _asking(service) as client, quiet_pydicom():
            answer = client.store_instances([dataset])
    except InputError as error:
        raise OutputError(f"{path} was written, but not stored: {error.cause}", error.remedy) from error
    if answer is None or answer.get("FailedSOPSequence", None):
        raise OutputError(f"{path} was written, but {service} does not take it.", "Ask who keeps the archive.")


def read_service(
    service: str,
    patient_ids: Iterable[str] = (),
    study_uids: Iterable[str] = (),
    progress: Optional[Progress] = None,
) -> Iterator[Contents]:
    """What an archive holds of some patients, one after the other: those named, and those of the studies named.

    :raises InputError: the archive does not answer, or does not know a study.
    """
    tell = progress or silent
    with _asking(service) as client:
        wanted = dict.fromkeys(patient_ids)
        for uid in study_uids:
            found = client.search_for_studies(search_filters={"StudyInstanceUID": uid}, fields=["PatientID"])
            if not found:
                raise InputError(f"{service} has no study {uid}.", "Check the UID.")
            wanted[text_of(_dataset(found[0]), "PatientID")] = None
    for number, patient_id in enumerate(wanted):
        tell(number / len(wanted), f"{number} of {len(wanted)} patients")
        if patient_id:
            with _asking(service) as client:
                yield _of_patient(client, service, patient_id)


def _of_patient(client: Any, service: str, patient_id: str) -> Contents:
    series: List[ArchivedSeries] = []
    reports: List[ArchivedReport] = []
    # "*" and "?" in an ID are wildcards to the archive: what it answers is looked at again.
    studies = client.search_for_studies(search_filters={"PatientID": patient_id}, fields=["PatientID"])
    for study in map(_dataset, studies):
        if text_of(study, "PatientID") != patient_id:
            continue
        uid = text_of(study, "StudyInstanceUID")
        for found in client.search_for_series(uid, fields=["Modality", "NumberOfSeriesRelatedInstances"]):
            one = _dataset(found)
            at = Address(service, uid, text_of(one, "SeriesInstanceUID"), "")
            if text_of(one, "Modality") in MODALITIES:
                series += _series(client, at, text_of(one, "NumberOfSeriesRelatedInstances"))
            elif text_of(one, "Modality") == "SR":
                reports += _reports(client, at)
    return Contents(tuple(series), tuple(reports))


def _series(client: Any, at: Address, count: str) -> List[ArchivedSeries]:
    """The series by one of its images; none when it is a scout or the like."""
    first = [_dataset(item) for item in client.search_for_instances(at.study, at.series, limit=1)]
    if not first:
        return []
    header = _header(client, at._replace(instance=text_of(first[0], "SOPInstanceUID")))
    frames = text_of(header, "NumberOfFrames")
    n_images = (int(count) if count.isdecimal() else 0) * (int(frames) if frames.isdecimal() else 1)
    if not is_image(header) or n_images < MIN_IMAGES:
        return []
    return [replace(series_from(header, n_images), url=str(at))]


def _reports(client: Any, at: Address) -> List[ArchivedReport]:
    found = []
    for item in client.search_for_instances(at.study, at.series):
        place = at._replace(instance=text_of(_dataset(item), "SOPInstanceUID"))
        header = _header(client, place)
        if is_report_of_measurements(header):
            found.append(report_from(header, str(place)))
    return found


def _header(client: Any, at: Address) -> Any:
    found = client.retrieve_instance_metadata(at.study, at.series, at.instance)
    return _dataset(found[0] if isinstance(found, list) else found)


def _dataset(item: Dict[str, Any]) -> Any:
    """What we ask about, of an answer in DICOM JSON; pixels and other large values are addresses there."""
    import pydicom
    from pydicom.datadict import tag_for_keyword

    wanted = [*WANTED, "SOPInstanceUID", "NumberOfSeriesRelatedInstances"]
    tags = {f"{tag_for_keyword(name):08X}" for name in wanted}
    with quiet_pydicom():
        return pydicom.Dataset.from_json({tag: value for tag, value in item.items() if tag in tags})


# --- the connection ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _asking(service: str) -> Iterator[Any]:
    """A client of a service; what goes wrong in the block is told as one line."""
    client = _client(service)
    import requests

    try:
        yield client
    except SAMv2Error:
        raise
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        remedy = (
            f"Name user and password in ~/.netrc, or a token in {TOKEN_VARIABLE}."
            if status in (401, 403)
            else "Check address and UIDs; the archive's own log tells more."
        )
        raise InputError(f"{service} answers {status}.", remedy) from error
    except (requests.RequestException, OSError) as error:
        raise InputError(f"No DICOMweb server answers at {service}.", "Check its address.") from error
    except ValueError as error:  # no JSON, no DICOM: a page of a proxy, say
        raise InputError(f"{service} answers what is not DICOMweb.", "Check its address.") from error


def _client(service: str) -> Any:
    try:
        import requests
        from dicomweb_client.api import DICOMwebClient
    except ImportError as error:
        raise UsageError(
            "DICOMweb needs the Python package dicomweb-client.", f"Install it: pip install '{REQUIREMENT}'."
        ) from error
    session: Any = requests.Session()  # its method is replaced below
    token = os.environ.get(TOKEN_VARIABLE)
    if token:
        if urlsplit(service).scheme != "https" and not _is_here(urlsplit(service).hostname or ""):
            raise UsageError(f"{TOKEN_VARIABLE} is not sent to {service} in the clear.", "Use https.")
        session.headers["Authorization"] = f"Bearer {token}"
        session.trust_env = False  # else netrc would replace the token
    session.request = functools.partial(session.request, timeout=_SECONDS)
    try:
        client = DICOMwebClient(service.rstrip("/"), session=session)
    except ValueError as error:
        raise UsageError(f"{service} is no address of a server.", "Write https://host/dicom-web.") from error
    client.set_http_retry_params(max_attempts=_ATTEMPTS, wait_exponential_multiplier=_WAIT_MS)
    return client


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
