"""Pickles as PyTorch writes them, read by a machine that knows data and tensors, and calls nothing.

Python's own unpickler cannot be used on a file of unknown origin even where it finds no name: a few bytes make it take
gigabytes for its memo, double a dictionary over and over, or hash a tuple so deep that the process ends. Here every
instruction costs as much memory as it has bytes, times a constant; see `pickletools` for what each of them means.
"""

import pickletools
from typing import NamedTuple


class Name(NamedTuple):
    """A class or function that the pickle refers to."""

    module: str
    name: str


class Reference(NamedTuple):
    """Data beside the pickle: what `persistent_id` of the writer gave."""

    identifier: object


class Call(NamedTuple):
    """What the pickle wants called: a Name, and a tuple of arguments."""

    function: Name
    arguments: tuple


_MARK = object()
_OTHER = None  # stands for sets, objects and their attributes

_ORDERED_DICT = Name("collections", "OrderedDict")
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_SET": _OTHER}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_VALUES = {*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, bool, bytes, type(None))  # what can be hashed in no time


def read_pickle(file, most, references=None):
    """The object of the next pickle of a binary file, which holds it in memory; leaves the file behind the pickle.

    Containers and numbers are Python's; names, calls and references stay what they are, all else is None. most: bytes
    of the pickle; references: a list to which each Reference is added. Raises ValueError, and whatever damage leads to.
    """
    machine = _Machine([] if references is None else references)
    start = file.tell()
    for code, argument, position in pickletools.genops(file):
        if position - start > most:
            raise ValueError(f"its pickle is longer than {most:,} bytes")
        machine.run(code.name, argument)
    return machine.pop()


class _Machine:
    """A stack, and what the pickle has numbered to use it again."""

    def __init__(self, references):
        self.stack = []
        self.memo = {}
        self.references = references

    def run(self, name, argument):
        """One instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
        else:
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise ValueError(f"it has an instruction that PyTorch does not write, {name}")
            step(argument)

    def pop(self):
        """The last object of the stack."""
        return self.stack.pop()

    def _pop_to_mark(self):
        last = len(self.stack) - 1
        while self.stack[last] is not _MARK:
            last -= 1
            if last < 0:
                raise ValueError("a mark is missing")
        items = self.stack[last + 1 :]
        del self.stack[last:]
        return items

    def _proto(self, _):
        pass

    _frame = _stop = _proto

    def _mark(self, _):
        self.stack.append(_MARK)

    def _pop(self, _):
        self.pop()

    def _pop_mark(self, _):
        self._pop_to_mark()

    def _dup(self, _):
        self.stack.append(self.stack[-1])

    # what is numbered

    def _put(self, number):
        self.memo[number] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, number):
        self.stack.append(self.memo[number])

    _binget = _long_binget = _get

    # containers

    def _tuple(self, _):
        self.stack.append(tuple(self._pop_to_mark()))

    def _list(self, _):
        self.stack.append(self._pop_to_mark())

    def _dict(self, _):
        self._fill(items := {}, self._pop_to_mark())
        self.stack.append(items)

    def _append(self, _):
        self._extend([self.pop()])

    def _appends(self, _):
        self._extend(self._pop_to_mark())

    def _extend(self, items):
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _setitem(self, _):
        value, key = self.pop(), self.pop()
        self._fill(self.stack[-1], [key, value])

    def _setitems(self, _):
        items = self._pop_to_mark()
        self._fill(self.stack[-1], items)

    def _fill(self, target, items):
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2]):
                if isinstance(key, _KEYS):
                    target[key] = value

    def _additems(self, _):
        self._pop_to_mark()

    def _frozenset(self, _):
        self._pop_to_mark()
        self.stack.append(_OTHER)

    # names, calls, objects

    def _global(self, names):
        self.stack.append(Name(*names.split(" ", 1)))

    def _stack_global(self, _):
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a name is no text")
        self.stack.append(Name(module, name))

    def _reduce(self, _):
        arguments, function = self.pop(), self.pop()
        if isinstance(function, Name) and function == _ORDERED_DICT:
            self.stack.append(self._ordered(*arguments))
        else:
            known = isinstance(function, Name) and isinstance(arguments, tuple)
            self.stack.append(Call(function, arguments) if known else _OTHER)

    def _ordered(self, pairs=()):
        items = {}
        for key, value in pairs:
            self._fill(items, [key, value])
        if pairs:  # the list itself is gone: a file cannot have it copied again and again
            pairs.clear()
        return items

    def _build(self, _):
        self.pop()  # attributes of the object below, which stays what it is

    def _newobj(self, _):
        self.pop()
        self.pop()
        self.stack.append(_OTHER)

    def _newobj_ex(self, _):
        self.pop()
        self._newobj(_)

    def _inst(self, _):
        self._pop_to_mark()
        self.stack.append(_OTHER)

    _obj = _inst

    def _persid(self, identifier):
        self.references.append(Reference(identifier))
        self.stack.append(self.references[-1])

    def _binpersid(self, _):
        self._persid(self.pop())
