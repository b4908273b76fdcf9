"""How much memory a computation may take."""

import psutil
import torch


def available_memory(device: torch.device, share: float, at_most: int) -> int:
    """A share of what is free on the device now, in bytes, but no more than `at_most`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return min(int(free * share), at_most)
