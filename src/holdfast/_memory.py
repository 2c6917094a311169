"""How much memory there is to be had."""

from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int | None:
    """Memory to be had on the device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    file = Path("/proc/meminfo")
    if device.type != "cpu" or not file.exists():
        return None
    named = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return next((int(parts[1]) * 2**10 for parts in named if parts[0] == "MemAvailable:"), None)
