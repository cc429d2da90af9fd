"""Images synthesised from label maps: random contrast, true anatomy (beyond the paper).

A network that has seen a border only as "bright against dark" learns the modality. Here the borders of a label map stay
and everything else is drawn anew: a level per label, texture, bias field, blur, slice thickness. Two views of one scan
with two draws show one anatomy in two contrasts that share nothing else, so what is learned from them cannot depend on
the modality. Geometry (the strong smooth deformation) is that of the view through which the labels are read
(:mod:`Training.views.geometry`), because context and detail crop must share it: :func:`strong_views` gives its options.

Scans without organ labels get *tissue labels*: clusters of the sharpened real image within the body
(:func:`tissue_labels`), and where there are organ labels, what these leave out gets them (:func:`anatomy_labels`).

Tensors are (d, h, w), axes (z, y, x); intensities are on the preprocessed scale [-50, 205]. A crop of 48 x 56 x 80
voxels takes 0.01 s of one core, reading and drawing apart.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from Training.views.geometry import ViewOptions

LOW, HIGH = -50.0, 205.0
MAX_LABELS = 512

# Clusters see HU through this curve: soft tissue, where organs differ by 20 HU, at full slope; lung and bone, which
# span a thousand, compressed. MR in stored units spans the whole range evenly and is taken as it is.
_HU_KNOTS = (-1024.0, -300.0, -150.0, 150.0, 400.0, 1500.0, 3071.0)
_HU_VALUES = (-350.0, -230.0, -150.0, 150.0, 250.0, 400.0, 420.0)


@dataclass(frozen=True)
class SynthesisOptions:
    """Ranges of the random draws; intensities on the preprocessed scale, whose length is 255.

    :param full_range_probability: that the levels span the whole scale, as MR does after its rescale by percentiles;
        else they span a window of at least ``min_window``, as the soft tissues of CT do.
    :param min_window: shortest window of levels.
    :param merge_probability: that a label takes the level of the one before it: tissues that a sequence cannot tell
        apart; clusters that were one tissue.
    :param texture: largest standard deviation of the grain within a label, relative to the window.
    :param grain_voxels: largest size of that grain.
    :param noise: largest standard deviation of the white noise, relative to the window.
    :param bias: largest standard deviation of the logarithm of the bias field.
    :param bias_voxels: distance of its control points.
    :param blur_mm: largest standard deviation of the blur.
    :param thickness_mm: largest slice thickness, along any axis.
    :param detail: largest gain of the real image's fine structure, when the real image is given.
    :param mix_probability: that an image given as real is blended with the synthetic one; else it gives detail only.
    """

    full_range_probability: float = 0.5
    min_window: float = 30.0
    merge_probability: float = 0.2
    texture: float = 0.1
    grain_voxels: float = 3.0
    noise: float = 0.06
    bias: float = 0.25
    bias_voxels: int = 40
    blur_mm: float = 2.0
    thickness_mm: float = 8.0
    detail: float = 1.0
    mix_probability: float = 0.3


OPTIONS = SynthesisOptions()


@dataclass(frozen=True)
class Contrast:
    """The choices of one view, so that its context and its detail crop look alike; grain and bias are drawn anew.

    :param levels: (MAX_LABELS,) mean intensity of each label.
    :param grain: (MAX_LABELS,) standard deviation of its texture.
    :param detail: (MAX_LABELS,) gain, of either sign, of the real image's fine structure.
    :param background: outside the body.
    :param window: length of the range of levels.
    :param thick_axis: 0..2 in (z, y, x).
    :param mix: share of the real image, 0..1.
    """

    levels: torch.Tensor
    grain: torch.Tensor
    detail: torch.Tensor
    background: float
    window: float
    grain_voxels: float
    noise: float
    bias: float
    blur_mm: float
    thickness_mm: float
    thick_axis: int
    mix: float


def strong_views(options: ViewOptions) -> ViewOptions:
    """View options with the strong smooth deformation that synthesis is meant for; its maps stay invertible."""
    return dataclasses.replace(options, rotation=max(options.rotation, 25.0), scale=(0.7, 1.4), deformation_mm=10.0)


def draw_contrast(generator: torch.Generator, options: SynthesisOptions = OPTIONS) -> Contrast:
    """Draw levels and degradations; every label id below ``MAX_LABELS`` has its own."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if uniform(0, 1) < options.full_range_probability:
        bottom, top = LOW, HIGH
    else:
        bottom = uniform(LOW, HIGH - options.min_window)
        top = uniform(bottom + options.min_window, HIGH)
    window = top - bottom
    levels = bottom + window * torch.rand(MAX_LABELS, generator=generator)
    merged = torch.rand(MAX_LABELS, generator=generator) < options.merge_probability
    merged[0] = False
    own = torch.where(merged, torch.zeros(MAX_LABELS, dtype=torch.long), torch.arange(MAX_LABELS))
    levels = levels[torch.cummax(own, dim=0).values]
    return Contrast(
        levels=levels,
        grain=options.texture * window * torch.rand(MAX_LABELS, generator=generator),
        detail=options.detail * (2 * torch.rand(MAX_LABELS, generator=generator) - 1),
        background=LOW if uniform(0, 1) < 0.8 else uniform(LOW, bottom + 0.2 * window),
        window=window,
        grain_voxels=uniform(1, options.grain_voxels),
        noise=options.noise * window * uniform(0, 1),
        bias=options.bias * uniform(0, 1),
        blur_mm=uniform(0, options.blur_mm),
        thickness_mm=uniform(0, options.thickness_mm),
        thick_axis=min(2, int(uniform(0, 3))),
        mix=uniform(0.2, 0.8) if uniform(0, 1) < options.mix_probability else 0.0,
    )


def synthesize(
    labels: torch.Tensor,
    body: torch.Tensor,
    generator: torch.Generator,
    options: SynthesisOptions = OPTIONS,
    *,
    contrast: Optional[Contrast] = None,
    spacing_mm: float = 2.0,
    real: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """An image of the anatomy in a label map.

    :param labels: (d, h, w) integers 0..``MAX_LABELS`` - 1; 0 within the body is a tissue like others.
    :param body: (d, h, w), true inside the patient.
    :param generator: of the CPU; the same state gives the same image.
    :param contrast: of :func:`draw_contrast`, to give several crops one look; None draws one.
    :param spacing_mm: of the voxels, 2 or 4.
    :param real: (d, h, w) the real image on the same scale: lends its fine structure, with a random gain and sign per
        label, and with ``mix_probability`` is blended in.
    :returns: (d, h, w) float32 in [-50, 205].
    """
    look = contrast or draw_contrast(generator, options)
    index = labels.long()
    x = look.levels[index]
    if real is not None:
        x = x + look.detail[index] * (real - smooth(real, 2.0 / spacing_mm * 1.5))
    grain = _grain(tuple(x.shape), max(1.0, look.grain_voxels * 2.0 / spacing_mm), generator)
    x = x + look.grain[index] * grain
    x = _biased(x, look, options, spacing_mm, generator)
    x = torch.where(body.bool(), x, torch.full_like(x, look.background))
    if real is not None and look.mix > 0:
        x = torch.lerp(x, real, look.mix)
    x = _degraded(x, look, spacing_mm)
    # Averaging 2x2x2 voxels leaves about a third of the noise in the 4 mm crop.
    noise = look.noise / (spacing_mm / 2.0) ** 1.5
    x = x + noise * torch.randn(x.shape, generator=generator)
    return x.clamp_(LOW, HIGH)


def _grain(shape: Tuple[int, ...], size: float, generator: torch.Generator) -> torch.Tensor:
    """Noise of unit standard deviation whose grains are ``size`` voxels large."""
    coarse = torch.randn([max(2, round(n / size)) for n in shape], generator=generator)
    if coarse.shape == shape:
        return coarse
    fine = F.interpolate(coarse[None, None], size=shape, mode="trilinear", align_corners=True)[0, 0]
    return fine / fine.std().clamp_min(1e-6)


def _biased(
    x: torch.Tensor, look: Contrast, options: SynthesisOptions, spacing_mm: float, generator: torch.Generator
) -> torch.Tensor:
    """Multiplied by a smooth field; black stays black."""
    step = options.bias_voxels * 2.0 / spacing_mm
    knots = torch.randn([int(np.ceil(n / step)) + 1 for n in x.shape], generator=generator)
    log_field = F.interpolate(knots[None, None] * look.bias, size=tuple(x.shape), mode="trilinear", align_corners=True)
    return (x - LOW) * log_field[0, 0].exp() + LOW


def _degraded(x: torch.Tensor, look: Contrast, spacing_mm: float) -> torch.Tensor:
    """Blurred, and averaged over thick slices along one axis."""
    if look.blur_mm / spacing_mm > 0.3:
        x = smooth(x, look.blur_mm / spacing_mm)
    n = round(look.thickness_mm / spacing_mm)
    if n < 2 or x.shape[look.thick_axis] < n:
        return x
    kernel = [n if axis == look.thick_axis else 1 for axis in range(3)]
    thick = F.avg_pool3d(x[None, None], kernel, ceil_mode=True)
    # The samples sit where the slices are, also when the last one is cut: pad it to whole slices, cut afterwards.
    whole = [thick.shape[2 + axis] * kernel[axis] for axis in range(3)]
    fine = F.interpolate(thick, size=whole, mode="trilinear", align_corners=False)[0, 0]
    return fine[: x.shape[0], : x.shape[1], : x.shape[2]]


def smooth(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (d, h, w), one axis after the other; ``sigma`` in voxels."""
    radius = max(1, round(2.5 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).to(x)
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(taps)
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        x = F.conv3d(F.pad(x[None, None], pad, mode="replicate"), taps.view(shape))[0, 0]
    return x


def tissue_labels(
    stored: np.ndarray, body: np.ndarray, modality: str = "ct", n_clusters: int = 12, seed: int = 0
) -> np.ndarray:
    """Clusters of intensity within the body, ids 1..``n_clusters`` from dark to bright; 0 outside.

    The image is first freed of noise (:func:`guided`), else muscle would be a speckle of two clusters, and sharpened
    (:func:`sharpened`), else every border between dark and bright would be a shell of the tissues between them.
    Clusters nearer to each other than the noise are one. A whole torso takes 3 s.

    :param stored: (d, h, w) int16, HU or MR in stored units (:mod:`Training.data.index`).
    :param body: (d, h, w), true inside.
    :param n_clusters: at most.
    :param seed: of the first centers, so that other seeds give other borders within a tissue.
    :returns: (d, h, w) uint8.
    """
    body = np.asarray(body, bool)
    labels = np.zeros(stored.shape, np.uint8)
    if not body.any():
        return labels
    image = stored.astype(np.float32)
    if modality == "ct":
        image = np.interp(image, _HU_KNOTS, _HU_VALUES).astype(np.float32)
    x = torch.from_numpy(image)
    noise = 1.5 * float(np.median(np.abs((x - smooth(x, 1.0)).numpy()[body])))
    clean = sharpened(guided(guided(x, 2.0 * noise), noise), 2.0 * noise).numpy()
    centers, masses = _k_means(clean[body], n_clusters, np.random.default_rng(seed))
    centers = _separated(centers, masses, 1.5 * noise)
    edges = (centers[1:] + centers[:-1]) / 2
    labels[body] = np.digitize(clean[body], edges) + 1
    return labels


def guided(x: torch.Tensor, noise: float, radius: int = 2) -> torch.Tensor:
    """(d, h, w) smoothed where it varies less than ``noise``, kept where it varies more (self-guided filter of He et
    al. 2010)."""

    def mean(y: torch.Tensor) -> torch.Tensor:
        for axis in range(3):
            size = [2 * radius + 1 if axis == other else 1 for other in range(3)]
            pad = [n // 2 for n in size]
            y = F.avg_pool3d(y[None, None], size, stride=1, padding=pad, count_include_pad=False)[0, 0]
        return y

    center = mean(x)
    variance = (mean(x * x) - center * center).clamp_min_(0)
    kept = variance / (variance + noise * noise + 1e-9)
    return mean(kept) * x + mean((1 - kept) * center)


def sharpened(x: torch.Tensor, least: float, n_iterations: int = 2) -> torch.Tensor:
    """(d, h, w) with blurred borders made steps: each voxel takes the smallest or the largest value around it,
    whichever is nearer (the toggle mapping of mathematical morphology), where these differ by more than ``least``."""
    for _ in range(n_iterations):
        high, low = x, -x
        for axis in range(3):
            size = [3 if axis == other else 1 for other in range(3)]
            pad = [n // 2 for n in size]
            high = F.max_pool3d(high[None, None], size, stride=1, padding=pad)[0, 0]
            low = F.max_pool3d(low[None, None], size, stride=1, padding=pad)[0, 0]
        steep = high + low > least
        x = torch.where(steep, torch.where(high - x < x + low, high, -low), x)
    return x


def _k_means(
    values: np.ndarray, n: int, rng: np.random.Generator, n_iterations: int = 12
) -> Tuple[np.ndarray, np.ndarray]:
    """Centers of 1-D clusters, increasing, at most ``n``, and their numbers of voxels; on a histogram."""
    low, high = np.percentile(values, [0.1, 99.9])
    counts, edges = np.histogram(np.clip(values, low, high), bins=512, range=(float(low), float(high) + 1e-3))
    places = (edges[1:] + edges[:-1]) / 2
    # Half of the first centers follow the volume, half the range: bone is rare, and matters.
    quantiles = np.quantile(values, rng.uniform(0.01, 0.99, n - n // 2))
    centers = np.unique(np.r_[quantiles, rng.uniform(low, high, n // 2)])
    weights = np.sqrt(counts)
    for _ in range(n_iterations):
        nearest = np.digitize(places, (centers[1:] + centers[:-1]) / 2)
        mass = np.bincount(nearest, weights, len(centers))
        sums = np.bincount(nearest, weights * places, len(centers))
        centers = np.sort(np.where(mass > 0, sums / np.maximum(mass, 1e-9), centers))
    nearest = np.digitize(places, (centers[1:] + centers[:-1]) / 2)
    return centers, np.bincount(nearest, counts, len(centers))


def _separated(centers: np.ndarray, masses: np.ndarray, least: float) -> np.ndarray:
    """Increasing centers; the nearest two are merged until no two are nearer than ``least``."""
    while len(centers) > 1 and np.diff(centers).min() < least:
        n = int(np.diff(centers).argmin())
        pair = slice(n, n + 2)
        merged = np.average(centers[pair], weights=masses[pair] + 1e-9)
        centers = np.r_[centers[:n], merged, centers[n + 2 :]]
        masses = np.r_[masses[:n], masses[pair].sum(), masses[n + 2 :]]
    return centers


def anatomy_labels(
    stored: np.ndarray,
    body: np.ndarray,
    labels: Optional[np.ndarray] = None,
    modality: str = "ct",
    n_clusters: int = 12,
    seed: int = 0,
) -> np.ndarray:
    """Label map to synthesise from: the organs where there are any, clusters of tissue in the rest of the body.

    :param labels: (d, h, w) organ ids, or None.
    :returns: (d, h, w) uint16: tissues 1..``n_clusters``, then the organs that occur, numbered in the order of their
        ids; 0 outside.
    """
    tissue = tissue_labels(stored, body, modality, n_clusters, seed).astype(np.uint16)
    if labels is None:
        return tissue
    organs, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape)
    # Unlabelled voxels number 0 only when there are any.
    offset = n_clusters if organs[0] == 0 else n_clusters + 1
    is_organ = (np.asarray(labels) > 0) & np.asarray(body, bool)
    return np.where(is_organ, np.minimum(numbers + offset, MAX_LABELS - 1), tissue).astype(np.uint16)
