"""The models: what is known of each, found where they are, trusted only for a reason."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from SAMv2Core.errors import ModelError
from SAMv2Core.models import catalogue, library
from SAMv2Core.models.records import read_record, write_calibration, write_record
from Testing.samples.bundled import bundle

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 4000  # looks like a checkpoint; is never loaded here
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FIELDS = set("name title architecture file modalities coverage licence source sha256 description".split())
ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("folders")


# The catalogue


def test_the_catalogue_is_complete_and_consistent():
    for name, entry in catalogue.catalogue().items():
        assert FIELDS <= set(entry)
        assert entry["name"] == name
        assert set(entry["modalities"]) <= {"ct", "mr"} and entry["modalities"]
        assert Path(entry["file"]).suffix in (".safetensors", ".pth")
        if entry["head_weights"]:
            assert sum(entry["head_weights"].values()) == pytest.approx(1)
    assert {"lite-ct", "sam", "sampp", "crosssam"} <= set(catalogue.catalogue())


def test_addresses_of_the_released_models():
    base = "https://www.modelscope.cn/models/viggin/Self-supervised_Anatomical_Embeddings"
    base += "/resolve/v1.0.0/checkpoints/"
    urls = {name: library.model_info(name).url for name in ("sam", "sampp", "crosssam")}
    assert urls == {
        "sam": base + "SAM.pth",
        "sampp": base + "SAMv2_iter_20000.pth",
        "crosssam": base + "CrossSAM_iter_20000_ct_mr_inter_1.pth",
    }


def test_listing_needs_no_torch_and_no_file():
    code = (
        "import sys; from SAMv2Core.models import library; print(*[m.name for m in library.list_models()]);"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"sam", "sampp", "crosssam"} <= set(done.stdout.split())


def test_the_light_networks_heads_have_names_that_the_catalogue_may_weigh(lite_file, folders):
    path = bundle(lite_file, folders[1])
    info = library.model_info("lite-ct")
    assert info.path == path and info.origin == "bundled" and info.is_ready
    assert info.modalities == ("ct",) and info.coverage == ("chest", "abdomen") and info.parameters > 10_000
    assert info.title == "Light CT"


# Finding


def test_search_order_is_file_then_user_then_bundled(folders, lite_file, tmp_path):
    user, bundled = folders
    assert not any(info.is_ready for info in library.list_models())
    in_bundle = bundle(lite_file, bundled)
    assert library.find_model("lite-ct") == in_bundle
    user.mkdir()
    in_user = Path(shutil.copy(lite_file, user))
    assert library.find_model("lite-ct") == in_user
    elsewhere = Path(shutil.copy(lite_file, tmp_path / "other.safetensors"))
    assert library.find_model(str(elsewhere)) == library.find_model(elsewhere) == elsewhere


def test_files_under_their_published_names_and_of_ones_own_are_found(folders):
    user, _ = folders
    user.mkdir()
    for name in ("SAMv2_iter_20000.pth", "my-model.pth"):
        (user / name).write_bytes(CONTENT)
    assert library.find_model("sampp") == user / "SAMv2_iter_20000.pth"
    assert library.find_model("my-model") == user / "my-model.pth"
    assert [info.name for info in library.list_models() if info.is_ready] == ["sampp", "my-model"]


def test_a_damaged_file_does_not_hide_the_others(folders, lite_file):
    user, bundled = folders
    user.mkdir()
    (user / "broken.safetensors").write_bytes(b"broken")
    bundle(lite_file, bundled)
    found = {info.name: info for info in library.list_models()}
    assert found["lite-ct"].is_ready
    assert "broken.safetensors" in found["broken"].warnings[0]


@pytest.mark.parametrize(
    "name, cause, remedy",
    [
        ("sampp", "sampp is not here", "samv2 models download sampp"),
        ("samppp", "no model named 'samppp'", "Did you mean sampp?"),
        ("none.pth", "no model file none.pth", "models list"),
        ("a/b", "no model file", "models list"),
    ],
)
def test_what_is_not_here_is_told_with_what_to_do(name, cause, remedy):
    with pytest.raises(ModelError) as caught:
        library.find_model(name)
    assert cause in caught.value.cause and remedy in caught.value.remedy
    assert caught.value.exit_code == 4


def test_the_default_model_fits_the_modalities(folders, lite_file):
    user, bundled = folders
    with pytest.raises(ModelError, match="CT"):
        library.default_model("ct", "ct")
    bundle(lite_file, bundled)
    assert library.default_model("ct", "ct") == library.default_model("ct") == "lite-ct"
    with pytest.raises(ModelError) as caught:
        library.default_model("ct", "mr")
    assert "CT and MR" in caught.value.cause and "crosssam" in caught.value.remedy
    user.mkdir()
    (user / "CrossSAM_iter_20000_ct_mr_inter_1.pth").write_bytes(CONTENT)
    assert library.default_model("mr", "ct") == library.default_model("mr", "mr") == "crosssam"
    assert library.default_model("ct", "ct") == "lite-ct"


# Trust


def test_a_bundled_file_with_its_hash_is_trusted(folders, lite_file):
    path = bundle(lite_file, folders[1])
    info = library.verify("lite-ct")
    assert info.trusted and info.warnings == ()
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bundled_file_that_was_exchanged_is_refused(folders, lite_file):
    bundle(lite_file, folders[1], recorded="0" * 64)
    with pytest.raises(ModelError, match="0000"):
        library.verify("lite-ct")


def test_the_first_hash_is_remembered_and_a_later_difference_refused(folders):
    user, _ = folders
    user.mkdir()
    path = user / "SAM.pth"
    path.write_bytes(CONTENT)
    first = library.verify("sam")
    assert not first.trusted and first.sha256 == SHA256 and SHA256 in first.warnings[0]
    assert read_record(path)["sha256"] == SHA256
    again = library.verify("sam")
    assert not again.trusted and "when it was first seen" in again.warnings[0]
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(ModelError, match=SHA256):
        library.verify("sam")


def test_the_hash_that_a_third_party_reported_is_compared_and_called_so(folders):
    user, _ = folders
    user.mkdir()
    (user / "SAMv2_iter_20000.pth").write_bytes(CONTENT)
    (warning,) = library.verify("sampp").warnings
    assert "DIFFERENT" in warning and "third party" in warning and "unverified" in warning


def test_nothing_is_written_beside_a_file_elsewhere(tmp_path):
    path = tmp_path / "elsewhere" / "mine.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert library.verify(path).sha256 == SHA256
    assert list(path.parent.iterdir()) == [path]


# Import and loading


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_imported_file_is_checked_copied_and_recorded(folders, lite_file):
    info = library.import_file(lite_file, "mine")
    assert info.path == folders[0] / "mine.safetensors" and info.path.read_bytes() == lite_file.read_bytes()
    assert info.name == "mine" and info.architecture == "lite" and not info.trusted
    assert read_record(info.path)["origin"] == "imported from lite-ct.safetensors"
    assert library.find_model("mine") == info.path
    assert library.import_file(lite_file, "mine").path == info.path


def test_names_that_are_taken_or_make_no_sense(folders, lite_file, tmp_path):
    library.import_file(lite_file, "mine")
    other = tmp_path / "other.safetensors"
    from SAMv2Core.models.checkpoints import load_network, save_network

    save_network(load_network(lite_file)[0], other, {"title": "another"})
    for name, cause in (
        ("mine", "mine"),
        ("lite-ct", "bundled"),
        ("../mine", "name"),
        ("sampp", "not sampp"),
    ):
        with pytest.raises(ModelError, match=cause):
            library.import_file(other, name)
    assert names_in(folders[0]) == ["mine.json", "mine.safetensors"]


def test_nothing_is_imported_that_cannot_be_loaded(folders, tmp_path):
    path = tmp_path / "SAM.pth"
    path.write_bytes(CONTENT)
    with pytest.raises(ModelError, match="damaged"):
        library.import_file(path)
    assert names_in(folders[0]) == []


def test_coefficients_fitted_later_come_from_the_record_and_belong_to_one_file(folders, lite_file):
    path = bundle(lite_file, folders[1])
    write_calibration(path, {"matched_above": 0.75, "track": {"matched_above": 0.9}})
    assert library.model_info("lite-ct").calibration["matched_above"] == 0.75
    verified = library.verify("lite-ct")  # the record still vouches for the file
    assert verified.trusted and verified.calibration["track"] == {"matched_above": 0.9}
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="not the file of its record"):
        write_calibration(path, {})
    write_record(path, "0" * 64, "other weights")
    assert "calibration" not in read_record(path)
