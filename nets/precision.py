"""In which numbers a training computes: float32, or bfloat16 where the device has instructions for it.

Without them PyTorch's bfloat16 is 26 to 500 times slower than float32 (measured with AVX2; see also pytorch/pytorch
issue 146508), so a training in it is refused rather than begun.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from nets.errors import PrecisionUnavailable


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 at least as fast as in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return torch.xpu.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False  # PyTorch cannot be asked
    # PyTorch's own kernels may be held to fewer instructions than the processor has (ATEN_CPU_CAPABILITY).
    allowed = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return allowed and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_vnni() -> bool:
    """Whether the processor has instructions that multiply and add four 8-bit integers at a time."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name) for name in ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))


def resolve(name: str, device: torch.device) -> torch.dtype:
    """The type that a spec's name comes down to on this device; raises PrecisionUnavailable."""
    if name == "float32" or (name == "auto" and not has_bfloat16(device)):
        return torch.float32
    if not has_bfloat16(device):
        raise PrecisionUnavailable
    return torch.bfloat16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Within, layers compute in this type; what needs float32 keeps it, and weights stay as they are."""
    return torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext()
