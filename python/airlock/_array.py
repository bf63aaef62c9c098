"""An array of a session, and the views of it."""
from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Optional, Union

from . import _types
from ._errors import Invalid
from ._library import Handle, check, library

if TYPE_CHECKING:
    import numpy as np


class Memory(Handle):
    """What an array and its views hold: the memory goes back with the last of them."""
    __slots__ = ("shape", "dtype", "nbytes", "address", "is_inside")
    nbytes: int
    address: int

    def __init__(self, owner: Handle, shape: tuple[int, ...], dtype: str) -> None:
        super().__init__("airlock_array_free", owner)
        self.shape = shape
        self.dtype = dtype

    def look(self) -> None:
        """Once the library has filled the pointer."""
        self.address = library().airlock_array_view(self.pointer)
        self.nbytes = library().airlock_array_bytes(self.pointer)
        self.is_inside = bool(library().airlock_array_is_inside(self.pointer))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": self.shape, "typestr": _types.typestr(self.dtype), "data": (self.address, False)}


class Array:
    """A dense row-major array, made by Pool.alloc(). Its memory goes back with free() or with the last reference to it,
    in either case not before its last view is gone."""

    def __init__(self, memory: Memory, use: str) -> None:
        self._memory: Optional[Memory] = memory
        self.shape: tuple[int, ...] = memory.shape
        self.dtype: str = memory.dtype
        self.nbytes: int = memory.nbytes
        self.use = use
        #: Whether it lies in memory that the server shares; else it lives here and is sent with a product.
        self.is_inside: bool = memory.is_inside

    def _live(self) -> Memory:
        memory = self._memory
        if memory is None:
            raise Invalid("the array was freed")
        memory.check_process()
        return memory

    @property
    def address(self) -> int:
        """Of its first byte, in this process."""
        return self._live().address

    @property
    def is_freed(self) -> bool:
        return self._memory is None

    def numpy(self) -> np.ndarray:
        """A view, nothing is copied; bfloat16 as the uint16 of its bits. It keeps the memory, also after free(). The
        server can write there at any time: check what matters in a copy."""
        view: np.ndarray = _types.numpy().asarray(self._live())
        return view

    def torch(self) -> Any:
        """As numpy(), a tensor on the CPU."""
        import torch
        view = self.numpy()
        if self.dtype == "bfloat16":
            return torch.from_numpy(view.view("int16")).view(torch.bfloat16)
        return torch.from_numpy(view)

    def to(self, device: Any) -> Any:
        """A tensor on torch's `device`: on "cpu" a view, elsewhere a copy."""
        return self.torch().to(device)

    def copy_(self, source: Any) -> Array:
        """Fills it from numpy, torch, or anything with __array__ or DLPack, broadcast to its shape and rounded to its
        type (float64 into float32, not a float into an int32). uint16 into bfloat16 are bits. Waits for the last product
        that writes it, and for that of a source that is an Array."""
        np = _types.numpy()
        target = self.numpy()
        if isinstance(source, Array):  # once it is written
            check(library().airlock_array_copy_out(source._live().get(), 0, None, 0))
        try:
            values, name = (source.numpy(), source.dtype) if isinstance(source, Array) else _types.as_numpy(source)
            if self.dtype == "bfloat16" and name in ("float16", "float32", "float64"):
                values = _types.to_bfloat16(values)
            elif self.dtype == "bfloat16" and name not in ("bfloat16", "uint16"):
                raise TypeError(f"cannot cast {name} to bfloat16")
            elif self.dtype != "bfloat16" and name == "bfloat16":
                values = _types.from_bfloat16(values)
            if not np.can_cast(np.asarray(values).dtype, target.dtype, "same_kind"):
                raise TypeError(f"cannot cast {name} to {self.dtype}")
            np.broadcast_to(values, target.shape)
            # No product writes it any more, and what became of the last one is of no interest.
            check(library().airlock_array_copy_in(self._live().get(), 0, None, 0))
            np.copyto(target, values, casting="same_kind")
        except (TypeError, ValueError, BufferError) as error:
            raise Invalid(f"an array of shape {self.shape} of {self.dtype} cannot be filled so: {error}") from error
        return self

    def copy_out(self, out: Optional[np.ndarray] = None) -> np.ndarray:
        """A copy that the server cannot change, into `out` if it is given. Waits for the last product that writes the
        array, and raises its failure if nobody waited for it. Unavailable where the array lies in the lease and the
        server ended: what was copied may be zeros then."""
        memory = self._live()
        np = _types.numpy()
        numpy_type = np.dtype(_types.typestr(memory.dtype))
        if out is None:
            out = np.empty(memory.shape, numpy_type)
        elif (out.shape, out.dtype) != (memory.shape, numpy_type) or not out.flags.c_contiguous & out.flags.writeable:
            raise Invalid(f"out must be writable, row-major, of shape {memory.shape} of {numpy_type}")
        check(library().airlock_array_copy_out(memory.get(), 0, out.ctypes.data, memory.nbytes))
        return out

    def free(self) -> bool:
        """The array is gone at once. Its memory goes back now, or with its last view: then this is False. A job that
        uses it keeps it too. Again: nothing."""
        memory, self._memory = self._memory, None
        if memory is None:
            return True
        left = weakref.ref(memory)
        del memory
        return left() is None

    def __enter__(self) -> Array:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        view = self.numpy()
        if dtype is not None and view.dtype != dtype:
            if copy is False:
                raise ValueError(f"{self.dtype} as {dtype} needs a copy")
            return view.astype(dtype)
        return view.copy() if copy else view

    def __dlpack__(self, **options: Any) -> Any:
        view = self.torch() if self.dtype == "bfloat16" else self.numpy()
        return view.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        self._live()
        return (1, 0)  # the CPU

    def __repr__(self) -> str:
        where = "freed" if self.is_freed else "in the lease" if self.is_inside else "in this program"
        return f"<airlock.Array {self.shape} {self.dtype}, {self.use}, {where}>"


Shape = Union[int, "tuple[int, ...]", "list[int]"]
