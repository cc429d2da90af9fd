"""What the system tells about memory, limits, slab depths, and the allocator's effect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from SAMv2Core.embedding import memory
from SAMv2Core.errors import MemoryLimitError, UsageError
from SAMv2Core.io.volume import write_volume
from Testing.samples.embedding_samples import torso

MIB = 2**20
ROOT = Path(__file__).parents[3]


def test_resident_memory_follows_an_allocation():
    before = memory.current_rss_bytes()
    block = np.ones(64 * MIB, np.uint8)
    grown = memory.current_rss_bytes() - before
    assert block.nbytes * 0.9 < grown < block.nbytes * 1.5
    assert memory.peak_rss_bytes() >= before + grown * 0.9


def test_the_peak_does_not_include_the_parent_process():
    block = np.ones(400 * MIB, np.uint8)
    code = "from SAMv2Core.embedding.memory import peak_rss_bytes; print(peak_rss_bytes())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 4 * MIB < int(out.stdout) < block.nbytes


def test_available_memory_is_plausible():
    available = memory.available_bytes()
    assert available is not None
    assert 16 * MIB < available < 2**50


def test_control_groups_of_both_versions_are_honored(tmp_path):
    (tmp_path / "proc").write_text("4:memory:/job/7\n0::/user/app\n1:cpu:/x\n")
    new, old = tmp_path / "user" / "app", tmp_path / "memory" / "job"
    for folder in (new, old):
        folder.mkdir(parents=True)
    (new / "memory.max").write_text("max\n")  # unlimited itself, limited by its parent
    (new / "memory.current").write_text("10\n")
    (new.parent / "memory.max").write_text("1000\n")
    (new.parent / "memory.current").write_text("700\n")
    (new.parent / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    (old / "memory.limit_in_bytes").write_text("900\n")
    (old / "memory.usage_in_bytes").write_text("100\n")
    left = memory._linux_cgroup_available(str(tmp_path / "proc"), str(tmp_path))
    assert sorted(left) == [350, 800]


def test_control_groups_that_cannot_be_read_are_ignored(tmp_path):
    assert memory._linux_cgroup_available(str(tmp_path / "none"), str(tmp_path)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v is honored on Linux only")
def test_address_space_limit_counts_as_memory():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "from SAMv2Core.embedding.memory import available_bytes; print(available_bytes())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert 0 < int(out.stdout) < 2**31


def test_vm_stat_of_macos():
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   100.\n"
        "Pages active: 9000.\nPages inactive: 20.\nPages speculative: 3.\nPages purgeable: 4.\n"
    )
    assert memory.parse_vm_stat(text) == 16384 * 127
    assert memory.parse_vm_stat("nonsense") is None


def test_a_limit_counts_what_is_in_use(monkeypatch):
    monkeypatch.setattr(memory, "current_rss_bytes", lambda: 600 * MIB)
    assert memory.budget(None, 1.5) == memory.Budget(936 * MIB, 936 * MIB)


@pytest.mark.parametrize(
    ("in_use_gib", "free_gib", "comfortable_gib", "allowed_gib"),
    [
        (0.5, 20.0, 3.0, 16.0),  # plenty: stop at a process of 3.5 GiB
        (0.5, 2.0, 1.6, 1.6),  # scarce: 80 % of what is free
        (6.0, 20.0, 1.5, 16.0),  # a large process (Slicer) still gets 1.5 GiB
    ],
)
def test_without_a_limit_most_of_the_free_memory_may_be_used(
    monkeypatch, in_use_gib, free_gib, comfortable_gib, allowed_gib
):
    monkeypatch.setattr(memory, "current_rss_bytes", lambda: int(in_use_gib * memory.GIB))
    monkeypatch.setattr(memory, "available_bytes", lambda: int(free_gib * memory.GIB))
    found = memory.budget()
    assert found.comfortable == pytest.approx(comfortable_gib * memory.GIB, abs=2)
    assert found.allowed == pytest.approx(allowed_gib * memory.GIB, abs=2)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_limits_that_make_no_sense(limit):
    with pytest.raises(UsageError):
        memory.limit_bytes(limit)


def needed(depth: int) -> int:
    return 100 + 10 * depth


def test_the_deepest_comfortable_slab_comes_first():
    assert memory.slab_depths(needed, 100, memory.Budget(2000, 2000)) == [100, 96, 64, 48, 32, 24, 16, 8]
    assert memory.slab_depths(needed, 100, memory.Budget(600, 2000)) == [48, 32, 24, 16, 8]
    assert memory.slab_depths(needed, 100, memory.Budget(9999, 9999), deepest=32) == [32, 24, 16, 8]
    assert memory.slab_depths(needed, 20, memory.Budget(9999, 9999), deepest=32) == [20, 16, 8]
    assert memory.slab_depths(needed, 6, memory.Budget(9999, 9999), deepest=32) == [6]


def test_the_thinnest_slab_may_pass_what_is_comfortable_but_not_the_limit():
    assert memory.slab_depths(needed, 100, memory.Budget(100, 180)) == [8]
    with pytest.raises(MemoryLimitError) as caught:
        memory.slab_depths(lambda d: needed(d) * memory.GIB // 100, 100, memory.Budget(memory.GIB, memory.GIB))
    assert "1.80 GiB" in caught.value.cause
    assert "1.00 GiB" in caught.value.cause
    assert caught.value.remedy
    assert caught.value.exit_code == 5


def test_large_blocks_are_reused_and_given_back():
    """Inside, freed memory stays with the process; afterwards the system has it back (glibc only)."""
    if memory._glibc() is None:
        with memory.reuse_large_blocks():
            pass
        pytest.skip("not glibc")
    code = (
        "import ctypes, numpy as np; from SAMv2Core.embedding.memory import reuse_large_blocks;"
        "from SAMv2Core.embedding.memory import current_rss_bytes as rss; start = rss()\n"
        "with reuse_large_blocks():\n"
        "    block = np.ones(200 * 2**20, np.uint8); del block; kept = rss() - start\n"
        "after = rss() - start; print(kept, after)\n"
        "block = np.ones(200 * 2**20, np.uint8); del block; print(rss() - start)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    kept, after, default = (int(n) for n in out.stdout.split())
    assert kept > 190 * MIB
    assert after < 20 * MIB
    assert default < 20 * MIB  # the allocator is back to unmapping large blocks


_EMBED_A_TORSO = """
import torch
torch.set_num_threads(1)
from SAMv2Core.embedding.model import Model
from SAMv2Core.network.lite import LiteNet
from SAMv2Core.embedding.memory import peak_rss_bytes
from SAMv2Core.io.volume import read_volume
from Testing.samples.embedding_samples import model_info, seeded
import sys
volume = read_volume(sys.argv[1])
texts = set()
emb = Model(seeded(LiteNet()), model_info()).embed(
    volume, "ct", lambda _, text: texts.add(text), precision="fp32", max_memory_gib=1.5
)
assert emb.input_grid.shape_zyx == (250, 150, 180)
print(peak_rss_bytes())
"""


@pytest.mark.slow
def test_a_torso_stays_below_the_limit(tmp_path):
    """A process that imports torch, reads 180 x 150 x 250 voxels at 2 mm and embeds them in 1.5 GiB."""
    write_volume(torso((250, 150, 180)), tmp_path / "torso.nii.gz")
    command = [sys.executable, "-c", _EMBED_A_TORSO, str(tmp_path / "torso.nii.gz")]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stderr
    assert 0.5 * memory.GIB < int(out.stdout) < 1.5 * memory.GIB


def test_on_a_gpu_torchs_reserve_counts_as_free(monkeypatch):
    """Of 8 GiB, 3 are free, 4 reserved by this process, of which 1 is in use."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * memory.GIB, 8 * memory.GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 4 * memory.GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1 * memory.GIB)
    assert memory.budget(gpu).allowed == pytest.approx(0.8 * 6 * memory.GIB, abs=1)
    assert memory.budget(gpu, 2.5) == memory.Budget(int(1.5 * memory.GIB), int(1.5 * memory.GIB))
