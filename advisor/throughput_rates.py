"""How fast a device and its links are: stated rates, and the share of them that training reaches."""

from typing import NamedTuple

from lora_advise.facts import HardwareFacts

Band = tuple[float, float]

FP16_TFLOPS = {
    "Tesla T4": 65.0, "Tesla V100 SXM2 16GB": 125.0, "Tesla V100 SXM2 32GB": 125.0, "Tesla V100 PCIe 16GB": 112.0,
    "Tesla V100 PCIe 32GB": 112.0, "TITAN RTX": 130.5, "Quadro RTX 6000": 130.5, "Quadro RTX 5000": 89.2,
    "GeForce RTX 2080 Ti": 53.8, "GeForce RTX 2080 SUPER": 44.6, "GeForce RTX 2080": 40.3,
    "GeForce RTX 2070 SUPER": 36.2, "GeForce RTX 2070": 29.9, "GeForce RTX 2060 SUPER": 28.7,
    "GeForce RTX 2060 12GB": 28.7, "GeForce RTX 2060": 25.8,
}  # fmt: skip
"""Dense fp16 rate with fp32 sums, in TFLOP/s, of cards without bf16 (source gpu-datasheets)."""
LAUNCH: Band = (10e-6, 45e-6)
"""Seconds of the host for each operation: 9.0 to 14.3 microseconds in a trace on an idle processor; 40 to 49 in the runs of
the calibration that wait for the host."""
NVLINK: Band = (150e9, 400e9)
"""Bytes per second and direction between NVLink's devices: half of an A100's 300 GB/s, and most of an H100's 450."""
PCIE: Band = (6e9, 25e9)
"""PCIe 3.0 through host memory, and PCIe 4.0 x16 with most of its 32 GB/s."""
NETWORK: Band = (3e9, 50e9)
"""Per device between hosts: 25 Gbit/s, and 400 Gbit/s."""
ONE_HOST = 8
"""Devices that one host usually holds; more are taken to lie in several."""


class Efficiency(NamedTuple):
    """The share of a device's stated rates that training reaches once the host keeps up."""

    low: float
    high: float
    of: str
    """Which devices, and what it was set on."""


HBM = Efficiency(0.55, 0.92, "A100 class, set on 278 runs of an A100")
HOPPER = Efficiency(0.30, 0.80, "Hopper and later, set on 7 runs of one trainer on an H100, whose slowest lie below")
GDDR = Efficiency(0.30, 0.80, "data-centre cards with GDDR memory, set on 29 runs of an L40S")
GEFORCE = Efficiency(0.45, 0.95, "GeForce, set on 9 runs of an RTX 4080")
WORKSTATION = Efficiency(0.30, 0.95, "workstation cards, no run measured: the bands of GeForce and L40S together")
OLDER = Efficiency(0.25, 0.80, "cards before Ampere, no run measured: the L40S's band, widened")
OTHER = Efficiency(0.20, 0.90, "other devices, no run measured")


class Rates(NamedTuple):
    """Stated rates of one device: FLOP/s of 16-bit products, bytes per second of its memory; and what is reached."""

    flops: float
    bytes: float
    efficiency: Efficiency


def rates_of(hardware: HardwareFacts, dtype: str) -> Rates | str:
    """The rates of a device, or a sentence on why they are not known and what to do."""
    name = hardware.name
    if hardware.kind == "cpu":
        return "Not forecast for a CPU; name a GPU with --gpu NAME, such as --gpu RTX4090."
    if dtype == "float32":
        return "Not forecast in float32: the table holds 16-bit rates; bfloat16 is what --dtype bfloat16 asks for."
    if hardware.bandwidth_gb_s is None and hardware.compute_capability is None and hardware.kind == "cuda":
        return (
            f"Cannot be told for a {name}, whose speed is unknown; name the GPU with --gpu NAME, such as --gpu RTX4090."
        )
    tflops = hardware.bf16_tflops or FP16_TFLOPS.get(name.split(" (the smallest here")[0])
    if tflops is None or hardware.bandwidth_gb_s is None:
        return f"Cannot be told for {name}: its 16-bit rate or bandwidth is not in the table; name a GPU of `lora-advise gpus` with --gpu NAME."
    return Rates(tflops * 1e12, hardware.bandwidth_gb_s * 1e9, efficiency_of(hardware))


def efficiency_of(hardware: HardwareFacts) -> Efficiency:
    """The band of a device's class, by kind, compute capability and name."""
    if hardware.kind != "cuda":
        return OTHER
    capability = _version(hardware.compute_capability)
    if capability is None:
        return OTHER
    if capability < (8, 0):
        return OLDER
    if capability == (8, 0):
        return HBM
    if capability[0] in (9, 10):
        return HOPPER
    return {"consumer": GEFORCE, "laptop": GEFORCE, "workstation": WORKSTATION, "datacenter": GDDR}.get(
        _card_class(hardware.name), OTHER
    )


def _card_class(name: str) -> str:
    from lora_advise.gpus import find_card

    card = find_card(name.split(" (the smallest here", maxsplit=1)[0])
    return card.card_class if card else ""


def _version(text: str | None) -> tuple[int, int] | None:
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def link_of(hardware: HardwareFacts, devices: int) -> tuple[Band, str]:
    """Bytes per second between devices, slow and fast, and the assumption in words."""
    if devices > ONE_HOST:
        return NETWORK, f"more than {ONE_HOST} devices lie in several hosts, joined by 25 to 400 Gbit/s each"
    if hardware.nvlink:
        return NVLINK, "the devices exchange 150 to 400 GB/s over NVLink or its like"
    if hardware.nvlink is None:
        return (PCIE[0], NVLINK[1]), "how the devices are joined is not known: 6 GB/s (PCIe 3.0) to 400 GB/s (NVLink)"
    return PCIE, "the devices exchange 6 to 25 GB/s over PCIe"
