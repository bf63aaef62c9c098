"""Element types: the library's number of each, and what numpy and torch call it."""
from __future__ import annotations

from typing import Any

from ._errors import Invalid

NUMBERS = {"float32": 1, "float16": 2, "bfloat16": 3, "int32": 4, "uint8": 5, "float64": 6}
_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64", "float": "float64",
            "double": "float64"}
# numpy has no bfloat16: its bits.
_TYPESTRS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int32": "<i4", "uint8": "|u1", "float64": "<f8"}


def numpy() -> Any:
    try:
        import numpy as module
    except ImportError:
        raise ImportError("arrays as views need numpy: pip install numpy") from None
    return module


def typestr(name: str) -> str:
    return _TYPESTRS[name]


def name_of(dtype: Any) -> str:
    """Of a name, a numpy or a torch type."""
    name = dtype if isinstance(dtype, str) else str(dtype)
    name = name[len("torch."):] if name.startswith("torch.") else name
    name = _ALIASES.get(name, name)
    if name not in NUMBERS:
        try:
            name = numpy().dtype(dtype).name
        except (ImportError, TypeError):
            pass
    if name not in NUMBERS:
        raise Invalid(f"no array has elements of {dtype!r}; there are {', '.join(NUMBERS)}")
    return name


def is_torch(value: Any) -> bool:
    """Without importing torch."""
    return any(kind.__module__.split(".")[0] == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__)


def as_numpy(value: Any) -> tuple[Any, str]:
    """An ndarray, a view where it can be, and the name of its elements' type: bfloat16 comes as its bits."""
    np = numpy()
    if is_torch(value):
        import torch
        tensor = value.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(np.uint16), "bfloat16"
        array = tensor.numpy()
    elif hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        array = np.from_dlpack(value)
    else:
        array = np.asarray(value)
    return array, array.dtype.name


def to_bfloat16(values: Any) -> Any:
    """Bits, rounded to nearest, ties to even; a NaN stays one."""
    np = numpy()
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    quiet = (bits >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return np.where((bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000), quiet, rounded)


def from_bfloat16(bits: Any) -> Any:
    np = numpy()
    return (np.asarray(bits, dtype=np.uint32) << np.uint32(16)).view(np.float32)
