"""Options that several commands share, and how they turn into volumes, models and embeddings.

Kept here so that an option means the same everywhere; each command adds only what is its own.
"""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import SAMv2Core as s
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.files import write_text
from SAMv2Core.network import precision
from SAMv2Core.preprocessing import modality

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.embedding.cache import Cache

MODALITIES = ("auto", *modality.MODALITIES)
PRECISIONS = ("auto", *precision.PRECISIONS)
LOG_LEVELS = ("debug", "info", "warning", "error")


def positive_float(text: str) -> float:
    """An argparse type: a positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def positive_int(text: str) -> int:
    """An argparse type: 1, 2, 3, ..."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def suffixed(text: str, suffixes: Sequence[str]) -> str:
    """An argparse type, given its suffixes."""
    from SAMv2Core.io.files import suffix_of

    if suffix_of(text) not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(suffixes)}")
    return text


def volume_to_write(text: str) -> str:
    """An argparse type: the name of a volume to be written."""
    from SAMv2Core.io.volume import WRITABLE_SUFFIXES

    return suffixed(text, WRITABLE_SUFFIXES)


def transform_to_write(text: str) -> str:
    """An argparse type: the name of an ITK transform file to be written."""
    from SAMv2Core.io.transforms import SUFFIXES

    return suffixed(text, SUFFIXES)


def points_to_write(text: str) -> str:
    """An argparse type: the name of a point list to be written."""
    from SAMv2Core.io.points import SUFFIXES

    return suffixed(text, SUFFIXES)


def safetensors_to_write(text: str) -> str:
    """An argparse type: the name of an embedding to be written."""
    return suffixed(text, (".safetensors",))


def triple(values: Iterable[float]) -> Tuple[float, float, float]:
    """Three coordinates as plain numbers."""
    x, y, z = values
    return float(x), float(y), float(z)


def add_reporting_options(parser: argparse.ArgumentParser) -> None:
    """What every command has: ``--report``, ``--quiet``, ``--log-level``."""
    group = parser.add_argument_group("reporting")
    group.add_argument(
        "--report", metavar="R.json", help="write versions, inputs, timing, memory, warnings and results as JSON"
    )
    group.add_argument("--quiet", action="store_true", help="no progress and no table; warnings and errors remain")
    group.add_argument("--log-level", choices=LOG_LEVELS, default="warning", help="default: warning")


def add_input(
    parser: argparse.ArgumentParser, name: str, help_text: str, required: bool = True, several: bool = False
) -> None:
    """A volume to read, or ``several``: ``--<name>``, with its modality and its DICOM series."""
    count: Dict[str, Any] = {"nargs": "+"} if several else {}
    parser.add_argument(f"--{name}", required=required, metavar="VOLUME", help=help_text, **count)
    parser.add_argument(
        f"--modality-{name}", choices=MODALITIES, default="auto", help="what it is; default: decided from its values"
    )
    parser.add_argument(
        f"--series-{name}",
        metavar="UID",
        help="which DICOM series, when its folder holds several; UID:2 for its second volume",
    )


def position(text: str) -> List[float]:
    """An argparse type: L,P,S in mm."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise argparse.ArgumentTypeError("give three numbers separated by commas, as --point=-12.5,30,80")
    return values


def add_series_option(parser: argparse.ArgumentParser) -> None:
    """``--series``, for whichever input folder holds several series."""
    parser.add_argument("--series", metavar="UID", help="the same for whichever input is a folder of several series")


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """What every command that embeds has."""
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--model", metavar="NAME|FILE", help="default: the bundled model that fits; `samv2 models list` shows all"
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default: auto")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="number format; default: auto")
    group.add_argument(
        "--max-memory", type=positive_float, metavar="GIB", help="limit on the memory of the whole process"
    )
    group.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads; default: torch's own choice")
    group.add_argument("--cache", metavar="DIR|off", help="where embeddings are kept; default: the user's cache folder")
    group.add_argument(
        "--cache-size",
        type=positive_float,
        metavar="GIB",
        help="bound on that folder, the least recently used go first; default: 10",
    )


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What every command has that a server can compute."""
    group = parser.add_argument_group("a server (samv2 serve) that computes instead of this computer")
    group.add_argument("--server", metavar="URL", help="http://HOST:PORT or https://HOST:PORT; needs no torch here")
    group.add_argument("--token-file", metavar="F", help="file with the server's token")


def functions(session: Session) -> Any:
    """What a command calls to compute: SAMv2Core, or a server that has the same functions."""
    return s if session.remote is None else session.remote


def _remote(session: Session) -> Any:
    """The server of --server; None without."""
    args = session.args
    if getattr(args, "server", None) is None:
        if getattr(args, "token_file", None):
            raise UsageError("--token-file is for a server.", "Add --server.")
        return None
    if session.remote is None:
        from SAMv2Core.cli.remote import Remote

        for option, is_given in (
            ("--device", args.device != "auto"),
            ("--threads", args.threads is not None),
            ("--max-memory", args.max_memory is not None),
            ("--cache", args.cache is not None),
            ("--cache-size", args.cache_size is not None),
        ):
            if is_given:
                raise UsageError(f"{option} is the server's own choice.", f"Leave {option} or --server out.")
        session.remote = Remote(args.server, args.token_file)
        if session.remote.is_open_to_others:
            session.warn(f"Whoever is between this computer and {args.server} can read the scans: use https.")
    return session.remote


def say_table(session: Session, text: str) -> None:
    """A table for the user, and for the file of ``--table``."""
    session.say(text)
    if session.args.table:
        write_text(session.args.table, text + "\n", session.inputs)


def name_each(args: argparse.Namespace, option: str) -> List[str]:
    """The volumes of an option that takes several as inputs of their own, which all functions here then know:
    ``template`` where there is one, else ``template_1``, ...; modality and series are those of the option."""
    paths = getattr(args, option)
    names = [option] if len(paths) == 1 else [f"{option}_{number}" for number in range(1, len(paths) + 1)]
    modality, series = getattr(args, f"modality_{option}"), getattr(args, f"series_{option}", None)
    for name, path in zip(names, paths):
        for attribute, value in ((name, path), (f"modality_{name}", modality), (f"series_{name}", series)):
            setattr(args, attribute, value)
    return names


def read_input(session: Session, name: str) -> s.Volume:
    """Read the volume of option ``--<name>``; its geometry goes to the report and its warnings to the user."""
    args = session.args
    path = getattr(args, name)
    volume = _read_series(path, getattr(args, f"series_{name}"), args.series)
    session.add_volume(name, volume)
    return volume


def _read_series(path: str, own_uid: Optional[str], shared_uid: Optional[str]) -> s.Volume:
    """``--series`` counts where it names a series; ``--series-<name>`` is an order."""
    if own_uid is not None or shared_uid is None:
        return s.read_volume(path, own_uid)
    try:
        return s.read_volume(path, shared_uid)
    except InputError as not_there:
        try:
            return s.read_volume(path)  # another input may hold that series
        except InputError:
            raise not_there from None


def open_cache(args: argparse.Namespace) -> Optional[Cache]:
    """The embedding cache that ``--cache`` asks for, None for ``off``."""
    from SAMv2Core.embedding.cache import Cache

    return None if args.cache == "off" else Cache.of_size(args.cache, args.cache_size)


def modality_of(volume: s.Volume, asked: str) -> str:
    """``"ct"`` or ``"mr"``: as asked for, else as the volume's tags or values say."""
    from SAMv2Core.preprocessing.modality import detect_modality

    return asked if asked != "auto" else detect_modality(volume)[0]


def _tell_guesses(session: Session, volumes: Dict[str, s.Volume], modality: Dict[str, str]) -> None:
    """A scan that nobody called MR, beside a CT, may be a CT that is not in HU: say so, and how to say otherwise."""
    if "ct" not in modality.values():
        return
    for name, volume in volumes.items():
        if modality[name] == "mr" and getattr(session.args, f"modality_{name}") == "auto" and volume.modality is None:
            option = "follow-up" if name.startswith("follow_up") else name
            session.warn(
                f"{volume.source} is taken for MR, by its values, while another scan is a CT; if it is a CT that is "
                f"not in HU, add --modality-{option} ct (mr, if it is one)."
            )


def load_model(session: Session, volumes: Dict[str, s.Volume]) -> s.Model:
    """The model that ``--model`` names, else the bundled one that fits the modalities of all volumes.

    :param volumes: by the name of their option.
    """
    from SAMv2Core.models.library import default_model

    args = session.args
    with session.stage("load model", 0.05, 0.08):
        remote = _remote(session)
        if args.threads is not None:
            import torch

            torch.set_num_threads(args.threads)
        modality = {name: modality_of(volume, getattr(args, f"modality_{name}")) for name, volume in volumes.items()}
        _tell_guesses(session, volumes, modality)
        if remote is not None:
            model = remote.load_model(args.model, tuple(modality.values()))
        else:
            model = _load(args.model or default_model(*set(modality.values())), args.device)
    session.set_model(model)
    return model


_kept: Dict[Tuple[str, str], s.Model] = {}
#: Models of this process by name and device, while they are kept; None: they are not.
_loaded: Optional[Dict[Tuple[str, str], s.Model]] = None


@contextlib.contextmanager
def models_stay_loaded() -> Iterator[None]:
    """Commands of this process load a model once, the next ones that run under this, too: for the rows of a batch."""
    global _loaded
    before, _loaded = _loaded, _kept
    try:
        yield
    finally:
        _loaded = before


def _load(name: str, device: str) -> s.Model:
    if _loaded is None:
        return s.load_model(name, device=device)
    if (name, device) not in _loaded:
        _loaded[name, device] = s.load_model(name, device=device)
    return _loaded[name, device]


def embed(
    session: Session, model: s.Model, name: str, volume: s.Volume, low: float, high: float, every_head: bool = False
) -> s.Embedding:
    """Embed one input with the options of the command line; its warnings go to the user."""
    args = session.args
    with session.stage(f"embed {name}", low, high) as progress:
        emb = model.embed(
            volume,
            getattr(args, f"modality_{name}"),
            progress,
            precision=args.precision,
            max_memory_gib=args.max_memory,
            cache=open_cache(args),
            every_head=every_head,
            quality=getattr(args, "quality", "default"),
        )
    session.add_embedding(name, emb)
    return emb


def embed_all(session: Session, volumes: Dict[str, s.Volume], high: float) -> List[s.Embedding]:
    """Load the model and embed some inputs, the progress bar going to ``high``."""
    model = load_model(session, volumes)
    low, step = 0.08, (high - 0.08) / len(volumes)
    return [
        embed(session, model, name, volume, low + n * step, low + (n + 1) * step)
        for n, (name, volume) in enumerate(volumes.items())
    ]
