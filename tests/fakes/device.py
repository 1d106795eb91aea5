"""A stand-in for a GPU: tensors that say they are on one, and refuse what a GPU refuses.

What they hold lies on the CPU, so that results are numbers that can be compared. Mixed operands, a
generator of the CPU for numbers of the device, and `.numpy()` fail as they do on a GPU. Torch's own
C++ takes the tensors for ones of the CPU; what asks for their device from Python gets the other.
"""

from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.random import fork_rng
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
#: Operations that may read tensors of both: copies, and indices that lie on the CPU.
COPIES = {"aten::_to_copy", "aten::copy_", "aten::copy"}
INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


class OnDevice(torch.Tensor):
    """A tensor of the stand-in."""

    device = DEVICE
    is_cuda, is_cpu = True, False

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})

    def __repr__(self):
        return f"OnDevice({self.held})"

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy


class SinglePrecision(torch.Tensor):
    """A tensor of a device without float64, as MPS is: it becomes one on the CPU only."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        found = super().__torch_function__(function, types, args, kwargs or {})
        is_moved = function is torch.Tensor.to and isinstance(args[1], str | torch.device)
        if (is_moved and torch.device(args[1]).type == "cpu") or function is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if isinstance(found, cls) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


def wrapped(x):
    return OnDevice(x) if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice) else x


def plain(x):
    return x.held if isinstance(x, OnDevice) else x


def run(operation, args, kwargs):
    """One operation, as a GPU would have it."""
    name, is_mutable = operation._schema.name, operation._schema.is_mutable
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, OnDevice)]
    others = [x for x in tensors if not isinstance(x, OnDevice)]
    asked = kwargs.get("device")
    to_device = bool(ours) if asked is None else torch.device(asked).type == DEVICE.type
    if name in INDEXED and isinstance(args[0], OnDevice):
        others = [x for x in others if x.dtype not in (torch.long, torch.int32, torch.bool)]
    if ours and name not in COPIES:
        far = [tuple(x.shape) for x in others if x.ndim or name in ("aten::cat", "aten::stack")]
        if far or (is_mutable and not isinstance(args[0], OnDevice)):
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {name} got cuda:0 and cpu {far}"
            )
    if kwargs.get("generator") is not None and to_device:
        raise RuntimeError(f"Expected a 'cuda' device type for generator, not 'cpu': {name}")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = operation(*tree_map(plain, args), **tree_map(plain, kwargs))
    if is_mutable:
        return args[0] if isinstance(result, torch.Tensor) else result
    return tree_map(wrapped, result) if to_device else result


class Dispatched(TorchDispatchMode):
    """Sees the operations without an operand on the device: those that make one there."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return run(operation, args, kwargs or {})


# -- what torch decides in C++, by the device that it takes the tensors to be on -------------------


def moved(x, *args, copy=False, **kwargs):
    """`x.to(...)`."""
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    device, dtype = x.device if device is None else device, dtype or x.dtype
    if device.type == x.device.type and dtype == x.dtype and not copy:
        return x
    return torch.ops.aten._to_copy(x, dtype=dtype, device=device)


def made_on_cpu(function):
    """A function that makes tensors of Python's numbers, on the CPU first, or of a tensor's."""

    def make(data, *args, device=None, **kwargs):
        made = function(data, *args, **kwargs)
        device = DEVICE if device is None and isinstance(data, OnDevice) else device
        return made if device is None else moved(made, device)

    return make


def new_tensor(x, data, *, device=None, **kwargs):
    return torch.tensor(data, **{"dtype": x.dtype, **kwargs}, device=device or x.device)


def one_hot(x, n_classes=-1):
    made = torch.ops.aten.one_hot(plain(x), n_classes)
    return wrapped(made) if isinstance(x, OnDevice) else made


@contextmanager
def stand_in():
    """Within, `device="cuda"` is the stand-in."""
    patches = [
        mock.patch("torch.cuda._lazy_init", return_value=None),
        mock.patch("torch.random.fork_rng", side_effect=lambda devices=(): fork_rng([])),
        mock.patch("torch.nn.functional.one_hot", one_hot),
        mock.patch("torch.__future__._overwrite_module_params_on_conversion", True),
        mock.patch.object(torch.Tensor, "to", moved),
        mock.patch.object(torch.Tensor, "cpu", lambda x: moved(x, "cpu")),
        mock.patch.object(torch.Tensor, "cuda", lambda x: moved(x, DEVICE)),
        mock.patch.object(torch.Tensor, "new_tensor", new_tensor),
        *(
            mock.patch.object(torch, name, made_on_cpu(getattr(torch, name)))
            for name in ("tensor", "as_tensor", "asarray")
        ),
    ]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(Dispatched())
        yield DEVICE
