"""What the expectation is of: f(z) = mz, f(z) = (mz)², or an expression such as `sin(3*z)`, read and never executed."""

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from tasvir.config import Refused, nearest


@dataclass(frozen=True)
class TestFunction:
    """A function of one number."""

    __test__ = False  # for pytest: no test, in spite of its name
    text: str
    of_number: Callable[[Tensor], Tensor]
    """Element by element, of any shape."""
    steps: bool = False
    """Whether it jumps, so that its derivative does not tell how it changes."""

    def __call__(self, z: Tensor) -> Tensor:
        """The sum over the variables of each sample, [*,D] → [*]."""
        return self.of_number(z).sum(-1)


def linear(m: float) -> TestFunction:
    return TestFunction(f"{m:g}·z", lambda z: m * z)


def square(m: float) -> TestFunction:
    return TestFunction(f"({m:g}·z)²", lambda z: (m * z).square())


FUNCTIONS: dict[str, Callable[[float], TestFunction]] = {"linear": linear, "square": square}

OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: torch.pow,
}
SIGNS: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
CALLS: dict[str, tuple[int, Callable[..., Any]]] = {
    "abs": (1, torch.abs),
    "exp": (1, torch.exp),
    "log": (1, torch.log),
    "sqrt": (1, torch.sqrt),
    "square": (1, torch.square),
    "sin": (1, torch.sin),
    "cos": (1, torch.cos),
    "tan": (1, torch.tan),
    "arctan": (1, torch.arctan),
    "tanh": (1, torch.tanh),
    "sigmoid": (1, torch.sigmoid),
    "softplus": (1, torch.nn.functional.softplus),
    "relu": (1, torch.relu),
    "sign": (1, torch.sign),
    "floor": (1, torch.floor),
    "step": (1, lambda z: (z > 0).to(z.dtype)),
    "minimum": (2, torch.minimum),
    "maximum": (2, torch.maximum),
}
"""Name → number of arguments and the function."""
STEPS = ("sign", "floor", "step")
LONGEST = 200
"""Characters of an expression."""
LARGEST = 1e30
"""Number in an expression."""


def function(text: str, m: float = 1.0) -> TestFunction:
    """`linear`, `square`, or an expression in z (and m, pi, e) of numbers, + - * / **, and `CALLS`.

    Raises `Refused` for anything else, and for names that look like misspelt ones says what was perhaps meant.
    """
    if text in FUNCTIONS:
        return FUNCTIONS[text](m)
    if len(text) > LONGEST:
        raise _refused(text[:40] + "…", f"it has {len(text)} characters, and {LONGEST} is the most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text, "it cannot be read") from None
    names = {"m": m, "pi": math.pi, "e": math.e}
    evaluate = _compiled(tree, names, text)
    called = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if "z" not in called:
        raise _refused(text, "there is no z in it")
    return TestFunction(text.strip(), evaluate, steps=bool(called & set(STEPS)))


Node = Callable[[Tensor], Tensor]


def _compiled(node: ast.expr, names: dict[str, float], text: str) -> Node:
    """A node of the tree as a function of z; nothing but what is named here gets through."""
    match node:
        case ast.Name(id="z"):
            return lambda z: z
        case ast.Name(id=name) if name in names:
            return _constant(names[name], text)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _constant(value, text)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in SIGNS:
            inner, sign = _compiled(operand, names, text), SIGNS[type(op)]
            return lambda z: sign(inner(z))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            both = [_compiled(side, names, text) for side in (left, right)]
            return lambda z: reduce(OPERATORS[type(op)], [side(z) for side in both])
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in CALLS:
            number, apply = CALLS[name]
            if len(arguments) != number:
                raise _refused(text, f"{name} takes {number} argument{'s' * (number > 1)}, not {len(arguments)}")
            parts = [_compiled(argument, names, text) for argument in arguments]
            return lambda z: apply(*(part(z) for part in parts))
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            known = [*FUNCTIONS, *CALLS, *names, "z"]
            raise _refused(text, f"{name} has no meaning here.{nearest(name, known)}".rstrip("."))
    raise _refused(text, f"`{ast.unparse(node)[:40]}` has no meaning here")


def _constant(value: float, text: str) -> Node:
    if not abs(value) <= LARGEST:
        raise _refused(text, f"a number in it is larger than {LARGEST:g}")
    return lambda z: torch.full_like(z, float(value))


def _refused(text: str, why: str) -> Refused:
    return Refused(
        f"--function {text!r} is no function of z: {why}.\n"
        f"It is {', '.join(FUNCTIONS)}, or made of z, m, pi, e, numbers, + - * / ** and {', '.join(CALLS)}."
    )
