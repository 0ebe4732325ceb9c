"""GPUs by name, size and count; the local machine by fake vendors' tools on PATH."""

from __future__ import annotations

import json
import os
import stat
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_advise import gpus, local_gpu
from lora_advise.errors import LoraAdviseError
from lora_advise.facts import HardwareFacts


@pytest.mark.parametrize(
    ("text", "name", "gib"),
    [
        ("RTX4090", "GeForce RTX 4090", 23.99), ("4090", "GeForce RTX 4090", 23.99), ("rtx 4090", "GeForce RTX 4090", 23.99),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090", 23.99), ("RTX_4090", "GeForce RTX 4090", 23.99),
        ("H100-80GB", "H100 SXM5 80GB", 79.65), ("NVIDIA H100 80GB HBM3", "H100 SXM5 80GB", 79.65), ("H100 PCIe", "H100 PCIe 80GB", 79.65),
        ("h200", "H200 SXM 141GB", 140.4), ("A100 40GB", "A100 SXM4 40GB", 40.0), ("A100", "A100 SXM4 80GB", 80.0),
        ("A100 80GB PCIe", "A100 PCIe 80GB", 80.0), ("a10g", "A10G", 22.49), ("T4", "Tesla T4", 15.0), ("T4 16GB", "Tesla T4", 15.0),
        ("3080 12GB", "GeForce RTX 3080 12GB", 12.0), ("4060 ti 16gb", "GeForce RTX 4060 Ti 16GB", 16.0),
        ("RTX 6000 Ada", "RTX 6000 Ada Generation", 47.99), ("MI300X", "Instinct MI300X", 192.0),
        ("M3 Max", "Apple M3 Max 36 GB", 36.0), ("m3 max 64gb", "Apple M3 Max 64 GB", 64.0),
        ("24GB", "24 GB card", 24.0), ("24 GiB", "24 GB card", 24.0), ("80g", "80 GB card", 80.0), ("141GB", "141 GB card", 140.4),
    ],
)  # fmt: skip
def test_one_device(text: str, name: str, gib: float) -> None:
    found = gpus.resolve_hardware(text, None)
    assert found is not None
    assert (found.name, found.memory_gib, found.count) == (name, gib, 1)


@pytest.mark.parametrize(
    ("gpu", "count_flag", "name", "count"),
    [
        ("2xRTX4090", None, "GeForce RTX 4090", 2), ("2x24GB", None, "24 GB card", 2), ("8*H100", None, "H100 SXM5 80GB", 8),
        ("RTX4090", "2", "GeForce RTX 4090", 2), (None, "2xRTX4090", "GeForce RTX 4090", 2), ("4090x2", None, "GeForce RTX 4090", 2),
        ("3x4090", None, "GeForce RTX 4090", 3), ("2 H100", None, "H100 SXM5 80GB", 2), ("16x16GB", None, "16 GB card", 16),
        ("2xA100", "2", "A100 SXM4 80GB", 2), ("A100", "4 x A100", "A100 SXM4 80GB", 4), ("8×A100-80GB", None, "A100 SXM4 80GB", 8),
    ],
)  # fmt: skip
def test_counts(gpu: str | None, count_flag: str | None, name: str, count: int) -> None:
    found = gpus.resolve_hardware(gpu, count_flag)
    assert found is not None
    assert (found.name, found.count) == (name, count)


@pytest.mark.parametrize(
    ("gpu", "count_flag", "part"),
    [
        ("2xA100", "4", "give one count"), ("A100", "2xH100", "equal ones"), ("RTX 5999", None, "GeForce RTX 5090"),
        ("RTX 6000", None, "RTX 6000 Ada Generation"), ("24", None, "24GB"), ("", None, "--gpu"), (" ", "2", "--gpu"), (None, "0", "between 1"),
        (None, "0xA100", "between 1"), (None, "99999", "between 1"), ("0GB", None, "between 1 and 1024"), ("M3 Max 65GB", None, "M3 Max"),
        ("x" * 300, None, "..."), ("RTX4090,RTX3090", None, "RTX 3090"), ("4xFoo", None, "foo"), ("../../etc/passwd", None, "no one GPU"),
    ],
)  # fmt: skip
def test_bad_input_names_the_flag_and_the_way_out(gpu: str | None, count_flag: str | None, part: str) -> None:
    with pytest.raises(LoraAdviseError) as caught:
        gpus.resolve_hardware(gpu, count_flag)
    assert part in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 400


def test_nothing_asked_is_nothing_known() -> None:
    assert gpus.resolve_hardware(None, None) is None


@given(st.text(max_size=40), st.one_of(st.none(), st.text(max_size=12)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_device_or_one_sentence(gpu: str, count_flag: str | None) -> None:
    try:
        found = gpus.resolve_hardware(gpu, count_flag)
    except LoraAdviseError as error:
        message = str(error)
        assert "\n" not in message
        assert "\x1b" not in message
    else:
        assert isinstance(found, HardwareFacts)


def test_every_name_and_alias_finds_its_own_memory() -> None:
    assert len(gpus.cards()) == 146
    assert len({card.name for card in gpus.cards()}) == 146
    for card in gpus.cards():
        assert card.sources, card.name
        named = gpus.find_card(card.name)
        assert named is not None, card.name
        assert named.name.startswith(card.name)
        for alias in card.aliases:
            found = gpus.find_card(alias)
            assert found is not None, alias
            assert found.name.startswith(card.name), alias


def test_capabilities_follow_the_generation() -> None:
    for card in gpus.cards():
        if card.capability is not None:
            version = tuple(map(int, card.capability.split(".")))
            assert card.bf16 == (version >= (8, 0)), card.name
            assert card.fp8 == (version >= (8, 9)), card.name
            assert card.flash_attention_2 in (version >= (8, 0), None), card.name
        if card.memory_mib is not None:
            assert 0.88 * card.memory_gb <= card.memory_gib <= 1.03 * card.memory_gb, card.name


def test_table_sizes_have_real_cards() -> None:
    assert tuple(gpus.TYPICAL_CARDS) == gpus.TABLE_SIZES
    for size, names in gpus.TYPICAL_CARDS.items():
        for name in names:
            card = gpus.find_card(name)
            assert card is not None, name
            assert card.memory_gb == size, name
        facts = gpus.card_of_size(size)
        assert facts.bf16 is None
        assert facts.compute_capability is None
    assert all(len(row) == 7 and all(isinstance(cell, str) for cell in row) for row in gpus.list_gpus())


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Put an executable of that name on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local_gpu, "TIMEOUT_S", 60.0)

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text("#!/bin/sh\nPATH=/usr/bin:/bin\n" + script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


def smi(*rows: str) -> str:
    return "cat <<'END'\n" + "\n".join(rows) + "\nEND\n"


def test_no_tool_means_no_gpu_at_once(tool) -> None:
    local_gpu.probe()
    started = time.process_time()
    for _ in range(20):
        assert local_gpu.probe() is None
    assert (time.process_time() - started) / 20 < 0.005


def test_equal_gpus_are_counted(tool) -> None:
    tool("nvidia-smi", smi(*(f"{i}, GPU-{i}aaa, NVIDIA GeForce RTX 4090, 24564, 8.9, [N/A]" for i in range(2))))
    found = local_gpu.probe()
    assert found is not None
    assert (found.name, found.count, found.memory_gib, found.compute_capability) == (
        "NVIDIA GeForce RTX 4090",
        2,
        23.99,
        "8.9",
    )
    assert found.bf16 is True
    assert found.bandwidth_gb_s == 1008


def test_of_unequal_gpus_the_smallest_is_taken_and_said(tool) -> None:
    tool(
        "nvidia-smi",
        smi("0, GPU-a, NVIDIA A100-SXM4-80GB, 81920, 8.0, Disabled", "1, GPU-b, Tesla T4, 15360, 7.5, [N/A]"),
    )
    found = local_gpu.probe()
    assert found is not None
    assert (found.count, found.memory_gib, found.bf16) == (1, 15.0, False)
    assert found.name.startswith("Tesla T4")
    assert "A100" in found.name


@pytest.mark.parametrize(
    ("setting", "count"), [("1", 1), ("0,2", 2), ("GPU-1", 1), ("", None), ("-1", None), ("0,7,1", 1), ("0,0", 1)]
)
def test_visible_devices_are_honoured(tool, monkeypatch, setting: str, count: int | None) -> None:
    tool("nvidia-smi", smi(*(f"{i}, GPU-{i}aaa, NVIDIA L4, 23034, 8.9, [N/A]" for i in range(3))))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    found = local_gpu.probe()
    assert (found.count if found else None) == count


def test_old_drivers_without_a_field_are_asked_again(tool) -> None:
    old = 'case "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field to query." ; exit 2;; esac\n'
    tool("nvidia-smi", old + smi("0, GPU-a, Tesla V100-SXM2-16GB, 16160"))
    found = local_gpu.probe()
    assert found is not None
    assert (found.name, found.memory_gib, found.bf16, found.compute_capability) == (
        "Tesla V100-SXM2-16GB",
        15.78,
        False,
        "7.0",
    )


def test_an_unknown_gpu_is_judged_by_its_capability(tool) -> None:
    tool("nvidia-smi", smi("0, GPU-a, NVIDIA X9000, 65536, 13.0, [N/A]"))
    found = local_gpu.probe()
    assert found is not None
    assert (found.name, found.memory_gib, found.bf16, found.bandwidth_gb_s) == ("NVIDIA X9000", 64.0, True, None)


def test_shared_memory_comes_from_the_table_and_mig_is_passed_over(tool) -> None:
    tool("nvidia-smi", smi("0, GPU-a, NVIDIA GB10, [N/A], 12.1, [N/A]"))
    found = local_gpu.probe()
    assert found is not None
    assert found.memory_gib == 128
    tool("nvidia-smi", smi("0, GPU-a, NVIDIA A100-SXM4-80GB, 81920, 8.0, Enabled"))
    assert local_gpu.probe() is None


@pytest.mark.parametrize(
    "script",
    [
        "exit 9\n",
        "head -c 4096 /dev/urandom\n",
        "echo 'NVIDIA-SMI has failed'\n",
        "echo '0, a, b, c, d, e'\n",
        "echo\n",
    ],
)
def test_a_broken_tool_is_no_gpu(tool, script: str) -> None:
    tool("nvidia-smi", script)
    assert local_gpu.probe() is None


def test_a_hanging_tool_is_given_up(tool, monkeypatch) -> None:
    monkeypatch.setattr(local_gpu, "TIMEOUT_S", 0.3)
    tool("nvidia-smi", "exec sleep 30\n")
    started = time.perf_counter()
    assert local_gpu.probe() is None
    assert time.perf_counter() - started < 10


def test_amd_by_rocm_smi_and_amd_smi(tool) -> None:
    card = {"Card Series": "AMD Instinct MI300X", "VRAM Total Memory (B)": str(206141652992)}
    tool("rocm-smi", smi(json.dumps({"card0": card, "card1": card, "system": {"Driver version": "6.1"}})))
    found = local_gpu.probe()
    assert found is not None
    assert (found.kind, found.count, found.memory_gib, found.bf16) == ("rocm", 2, 191.98, True)
    tool("rocm-smi", "exit 1\n")
    gpu = {
        "gpu": 0,
        "asic": {"market_name": "AMD Radeon RX 7900 XTX"},
        "vram": {"size": {"value": 24560, "unit": "MB"}},
    }
    tool("amd-smi", smi(json.dumps([gpu])))
    found = local_gpu.probe()
    assert found is not None
    assert (found.name, found.memory_gib, found.flash_attention_2) == ("AMD Radeon RX 7900 XTX", 23.98, True)


def test_a_bare_count_is_of_the_local_gpus(tool, monkeypatch) -> None:
    tool("nvidia-smi", smi(*(f"{i}, GPU-{i}, NVIDIA L4, 23034, 8.9, [N/A]" for i in range(4))))
    found = gpus.resolve_hardware(None, "2")
    assert found is not None
    assert (found.name, found.count) == ("NVIDIA L4", 2)
    with pytest.raises(LoraAdviseError, match="this machine has 4"):
        gpus.resolve_hardware(None, "8")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(LoraAdviseError, match="of which device"):
        gpus.resolve_hardware(None, "8")
