"""Tensors that autograd need not keep for the backward pass, since they can be computed again.

What an operation saves for its backward is replaced, where it is (a view of) such a tensor, by "which tensor,
which view"; the tensor is computed again when the first of its users asks, and dropped after the last. The
values are the same bit for bit, and the model's code does not change
(https://docs.pytorch.org/tutorials/intermediate/autograd_saved_tensors_hooks_tutorial.html).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils.weak import TensorWeakRef

_MARK = "_voxstrata_rebuilt"


@dataclass(frozen=True)
class Kept:
    """A tensor that is held."""

    tensor: Tensor
    version: int

    def claim(self) -> None:
        """Nothing to announce."""

    def take(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: if it was overwritten meanwhile.
        """
        if self.tensor._version != self.version:
            raise RuntimeError(
                f"a tensor {list(self.tensor.shape)} needed for the gradient was overwritten in place"
            )
        return self.tensor


@dataclass(frozen=True)
class View:
    """A view of a tensor that is computed again."""

    whole: Rebuilt
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def claim(self) -> None:
        """Announces a user of the whole."""
        self.whole.claim()

    def take(self) -> Tensor:
        """The view, of the tensor computed again."""
        return self.whole.take().as_strided(self.size, self.stride, self.offset)


Source = Kept | View


class Rebuilt:
    """How to compute a tensor again.

    Args:
        tensor: no view, fresh from its computation. It is not held; what it is saved for later is.
        build: the computation, a function of the sources' tensors; without a graph.
        sources: what it is computed from.
    """

    def __init__(self, tensor: Tensor, build: Callable[..., Tensor], sources: Sequence[Source] = ()) -> None:
        self._tensor = TensorWeakRef(tensor)
        self._version = tensor._version
        self._build = build
        self._sources = sources
        self._users = 0
        self._served = 0
        self._value: Tensor | None = None
        tensor.__dict__[_MARK] = self
        if tensor.grad_fn is not None:
            # Weak: a graph outlives its backward pass as long as somebody holds the loss.
            _notes(tensor.grad_fn)[_MARK] = weakref.ref(self)

    @property
    def current(self) -> bool:
        """Whether the tensor still is what would be computed."""
        tensor = self._tensor()
        return tensor is not None and tensor._version == self._version

    def claim(self) -> None:
        """Announces a user, who will call `take`."""
        if not self._users:
            for source in self._sources:
                source.claim()
        self._users += 1

    def take(self) -> Tensor:
        """The tensor, held until every announced user has taken it."""
        value = self._value
        if value is None:
            value = self._build(*(source.take() for source in self._sources))
        self._served += 1
        if self._served < self._users:
            self._value = value
        else:
            self._served, self._value = 0, None
        return value


def source_of(tensor: Tensor) -> Source:
    """How to have a tensor later: computed again where that is known, else held."""
    root = _root(tensor)
    whole = root.__dict__.get(_MARK) or _cast(root)
    if whole is not None and whole.current:
        return View(whole, tensor.size(), tensor.stride(), int(tensor.storage_offset()))
    # Detached, since an operation that holds its own output would hold itself.
    return Kept(tensor.detach(), tensor._version)


def forget(tensor: Tensor) -> None:
    """Lets go of what a tensor could be computed from."""
    tensor.__dict__.pop(_MARK, None)


@contextmanager
def rebuilding() -> Iterator[None]:
    """Operations inside keep nothing for their backward that is known to be computable again."""
    with saved_tensors_hooks(_pack, _unpack):
        yield


def _pack(tensor: Tensor) -> Source:
    source = source_of(tensor)
    source.claim()
    return source


def _root(tensor: Tensor) -> Tensor:
    return tensor._base if tensor._is_view() and tensor._base is not None else tensor


def _unpack(source: Source) -> Tensor:
    with torch.no_grad():
        return source.take()


def _cast(root: Tensor) -> Rebuilt | None:
    """Autocast makes low-precision copies of weights and states, anew for each use."""
    made_by = root.grad_fn
    if made_by is None or made_by.name() != "ToCopyBackward0":
        return None
    parent = made_by.next_functions[0][0]
    reference = _notes(parent).get(_MARK) if parent is not None else None
    whole = reference() if reference is not None else None
    original = whole._tensor() if whole is not None and whole.current else None
    if original is None or original.stride() != root.stride() or original.device != root.device:
        return None
    return Rebuilt(root, partial(Tensor.to, dtype=root.dtype), [source_of(original)])


def _notes(node: Node) -> dict[str, Any]:
    """What is noted on a node of the graph: torch declares this property as a method."""
    return cast(dict[str, Any], node.metadata)
