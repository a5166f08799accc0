"""Chooses the precision that a device computes in."""

from __future__ import annotations

import torch

from model.errors import WeightsError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device, compiled: bool = False) -> str:
    """Resolves "auto" to the best precision of a device, and checks the others.

    Returns:
        A key of `PRECISIONS`.

    Raises:
        WeightsError: the precision is unknown or cannot be compiled, or there is no C++ compiler.
    """
    if compiled and precision == "fp32":
        raise WeightsError("precision fp32 is torchvision's own arithmetic and is not compiled; use auto, bf16 or fp16")
    if compiled:
        _check_compiler()
    if precision in PRECISIONS:
        return precision
    if precision != "auto":
        raise WeightsError(f"precision {precision!r} is none of auto, {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _check_compiler() -> None:
    """Raises `WeightsError` if `torch.compile` would find no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise WeightsError("no C++ compiler to compile with; install g++, set CXX, or go without --compile") from None


def _cpu_has_bf16() -> bool:
    """Returns whether the processor multiplies bfloat16 natively (AVX512_BF16 or AMX)."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())
