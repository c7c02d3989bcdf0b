"""What the devices of a run could do, and what they hold."""

from typing import Any

import jax

PEAK_FLOPS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}
"""Products of matrices in bfloat16 a second, by kind of device: NVIDIA's data sheets,
without sparsity; cloud.google.com/tpu/docs/system-architecture-tpu-vm."""


def utilisation(flops: float, seconds: float, devices: int) -> dict[str, float]:
    """`mfu`, the share of the devices' peak that a step uses (Chowdhery et al. 2022);
    empty where the peak is not known.

    Args:
      flops: of a step, on all devices, as `account.count_flops(anew=False)` has it:
        what is computed anew to save memory is no use of a device.
      seconds: that it takes.
      devices: how many of them the step runs on.
    """
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind, 0) * devices
    return {"mfu": flops / seconds / peak} if peak and flops else {}


def is_known() -> bool:
    """Whether the peak of these devices is known."""
    return jax.devices()[0].device_kind in PEAK_FLOPS


def memory_in_use() -> dict[str, float]:
    """`device_gb`, the most that a device of this process held so far, in 1e9 bytes;
    empty where devices do not say.
    """
    told: list[Any] = [device.memory_stats() for device in jax.local_devices()]
    held = [each["peak_bytes_in_use"] for each in told if each]
    return {"device_gb": max(held) / 1e9} if held else {}
