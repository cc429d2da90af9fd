"""Rigid registration by three other programs: what ours has to beat, run as their authors would.

* ``sitk``: SimpleITK, Mattes mutual information, three levels, started from the volumes' geometric centers;
* ``elastix``: ``itk-elastix``'s default rigid parameters, started from the geometric centers;
* ``ants``: ``antspyx``'s ``Rigid``, which starts from centers of mass.

Mutual information counts voxels of the *fixed* image, so a moving image that covers only a part of it leaves most
samples without a partner: the volume with the smaller field of view as the fixed one suits all three far better
(measured on cropped MR: ANTs' median error 0.4 instead of 11.9 mm). A comparison gives them both directions, see
:func:`directed`.

Each function takes two volumes and returns a 4x4 LPS matrix from points of the fixed to the moving one, all seeded.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, Tuple

import numpy as np
import SimpleITK as sitk

from SAMv2Core.errors import InputError, UnreliableResultError, UsageError
from SAMv2Core.io.itk import quiet_itk
from SAMv2Core.io.volume import Volume, to_itk

Baseline = Callable[[Volume, Volume], np.ndarray]

SEED = 0
_LEVELS = (4, 2, 1)  # shrink factors; smoothing in voxels is half of them
_SAMPLED = 0.1

#: Import name and what to install, per baseline; SimpleITK is always there.
_NEEDS = {"sitk": ("SimpleITK", "SimpleITK"), "elastix": ("itk", "itk-elastix"), "ants": ("ants", "antspyx")}


def require(module: str, package: str) -> Any:
    """Import an optional package.

    :raises UsageError: it is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"The Python package {package} is not installed or does not load ({error}).", f"pip install {package}"
        ) from error


def prepare(name: str) -> None:
    """Load what a baseline needs, so that its time can be measured without it (``itk`` alone loads for 13 s).

    :raises UsageError: no such baseline, or its package is missing.
    """
    if name not in BASELINES:
        raise UsageError(f"There is no baseline {name!r}.", f"Choose among {', '.join(BASELINES)}.")
    module = require(*_NEEDS[name])
    if name == "elastix" and not hasattr(module, "elastix_registration_method"):
        raise UsageError("The installed itk has no elastix.", "pip install itk-elastix")


def register_sitk(fixed: Volume, moving: Volume) -> np.ndarray:
    """SimpleITK: Mattes mutual information, 50 bins, 10 % random samples, three levels, geometric centers.

    :raises UnreliableResultError: the optimizer gave up (images that do not overlap).
    """
    fixed_image, moving_image = (sitk.Cast(to_itk(_finite(volume)), sitk.sitkFloat32) for volume in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED, SEED + 1)  # 0 would mean the clock
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=200, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(_LEVELS))
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0 for factor in _LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    try:
        with quiet_itk():
            start = sitk.CenteredTransformInitializer(
                fixed_image, moving_image, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
            )
            method.SetInitialTransform(start, inPlace=False)
            found = method.Execute(fixed_image, moving_image)
    except RuntimeError as error:
        raise _failed("SimpleITK", error) from error
    return _matrix_of(found)


def register_elastix(fixed: Volume, moving: Volume) -> np.ndarray:
    """elastix: the default rigid parameter map, started from the geometric centers.

    :raises UsageError: ``itk-elastix`` is not installed.
    :raises UnreliableResultError: elastix gave up (too few samples inside the moving image).
    """
    itk = require("itk", "itk-elastix")
    parameters = itk.ParameterObject.New()
    rigid = parameters.GetDefaultParameterMap("rigid", 4)
    rigid["AutomaticTransformInitialization"] = ["true"]
    rigid["AutomaticTransformInitializationMethod"] = ["GeometricalCenter"]
    rigid["RandomSeed"] = [str(SEED + 1)]
    rigid["WriteResultImage"] = ["false"]
    parameters.AddParameterMap(rigid)
    try:
        _, result = itk.elastix_registration_method(
            _as_itk(itk, fixed), _as_itk(itk, moving), parameter_object=parameters, log_to_console=False
        )
    except RuntimeError as error:
        raise _failed("elastix", error) from error
    found = dict(result.GetParameterMap(0))
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(value) for value in found["CenterOfRotationPoint"]])
    transform.SetComputeZYX("".join(found.get("ComputeZYX", ["false"])) == "true")
    transform.SetParameters([float(value) for value in found["TransformParameters"]])
    return _matrix_of(transform)


def register_ants(fixed: Volume, moving: Volume) -> np.ndarray:
    """ANTs: ``antspyx``'s ``Rigid`` with its own defaults (mutual information, start from centers of mass).

    :raises UsageError: ``antspyx`` is not installed.
    :raises UnreliableResultError: ANTs gave up.
    """
    ants = require("ants", "antspyx")
    try:
        found = ants.registration(
            fixed=_as_ants(ants, fixed), moving=_as_ants(ants, moving), type_of_transform="Rigid", random_seed=SEED + 1
        )
        transform = ants.read_transform(found["fwdtransforms"][0])
    except (RuntimeError, ValueError, IndexError) as error:
        raise _failed("ANTs", error) from error
    parameters, center = np.array(transform.parameters, float), np.array(transform.fixed_parameters, float)
    rotation = parameters[:9].reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = parameters[9:12] + center - rotation @ center
    return matrix


BASELINES: Dict[str, Baseline] = {"sitk": register_sitk, "elastix": register_elastix, "ants": register_ants}


def field_of_view_mm3(volume: Volume) -> float:
    """Volume of the scanned box."""
    return float(abs(np.linalg.det(volume.ijk_to_lps[:3, :3])) * volume.array.size)


def directed(baseline: Baseline, fixed: Volume, moving: Volume, fixed_is_smaller: bool) -> Tuple[np.ndarray, bool]:
    """Run a baseline with the volume of the smaller (or larger) field of view as *its* fixed image.

    :returns: the matrix from ``fixed`` to ``moving`` whichever way it was run, and whether it ran swapped.
    """
    is_smaller = field_of_view_mm3(fixed) <= field_of_view_mm3(moving)
    if is_smaller == fixed_is_smaller:
        return baseline(fixed, moving), False
    return np.linalg.inv(baseline(moving, fixed)), True


def _finite(volume: Volume) -> Volume:
    """The volume with NaN and infinities as its smallest value; the other programs spread them."""
    array = volume.array
    if array.dtype.kind != "f" or bool(np.isfinite(array).all()):
        return volume
    lowest = array[np.isfinite(array)].min(initial=0)
    return Volume(np.where(np.isfinite(array), array, lowest), volume.ijk_to_lps, volume.source, volume.modality)


def _direction(volume: Volume) -> np.ndarray:
    return volume.ijk_to_lps[:3, :3] / volume.grid.spacing_ijk_mm


def _as_itk(itk: Any, volume: Volume) -> Any:
    image = itk.image_from_array(np.ascontiguousarray(_finite(volume).array, dtype=np.float32))
    image.SetSpacing([float(value) for value in volume.grid.spacing_ijk_mm])
    image.SetOrigin([float(value) for value in volume.ijk_to_lps[:3, 3]])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(_direction(volume))))
    return image


def _as_ants(ants: Any, volume: Volume) -> Any:
    return ants.from_numpy(
        np.ascontiguousarray(_finite(volume).array.transpose(2, 1, 0), dtype=np.float32),
        origin=[float(value) for value in volume.ijk_to_lps[:3, 3]],
        spacing=[float(value) for value in volume.grid.spacing_ijk_mm],
        direction=_direction(volume),
    )


def _matrix_of(transform: sitk.Transform) -> np.ndarray:
    """(4, 4) of a linear transform, by its effect on four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(np.eye(3)[axis].tolist())) - origin
    matrix[:3, 3] = origin
    if not np.all(np.isfinite(matrix)):
        raise InputError("The registration gave a matrix that is not finite.", "Check both volumes.")
    return matrix


def _failed(program: str, error: BaseException) -> UnreliableResultError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "rror" in line] or lines or [type(error).__name__]
    return UnreliableResultError(f"{program} gave up: {told[-1][:200]}", "Try the other direction or another program.")
