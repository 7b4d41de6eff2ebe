"""Integer division of indices: what a Reshape does to them."""

from __future__ import annotations

from ...algebra import (
    ZERO,
    Apply,
    Atom,
    Index,
    Monomial,
    Number,
    Poly,
    ind,
    is_nonnegative,
    less_equal,
    of,
    poly,
    upper_bound,
)
from .environment import Environment


def regroup(
    environment: Environment, inside: tuple[Poly, ...], outside: tuple[Poly, ...], indices: tuple[Poly, ...]
) -> tuple[Poly, ...] | None:
    """The index in shape ``inside`` of the element at ``indices`` in shape ``outside`` (same row-major order).

    Both shapes are cut into groups with equal products, so that only axes that are really merged or split
    go through division.
    """
    result: list[Poly] = []
    i = o = 0
    while i < len(inside) or o < len(outside):
        group_in, group_out = [], []
        product_in = product_out = poly(1)
        if i < len(inside):
            group_in.append(inside[i])
            product_in = inside[i]
            i += 1
        if o < len(outside):
            group_out.append(o)
            product_out = outside[o]
            o += 1
        while not environment.same(product_in, product_out):
            # Extend the side that is the proper divisor of the other one (or whichever still has axes).
            if o < len(outside) and (i >= len(inside) or divide(product_in, product_out) is not None):
                product_out = product_out * outside[o]
                group_out.append(o)
                o += 1
            elif i < len(inside):
                product_in = product_in * inside[i]
                group_in.append(inside[i])
                i += 1
            elif o < len(outside):
                product_out = product_out * outside[o]
                group_out.append(o)
                o += 1
            else:
                return None
        if len(group_in) == 1 and len(group_out) == 1:
            result.append(indices[group_out[0]])
            continue
        if not group_in:
            continue
        if not group_out:
            result.extend(ZERO for _ in group_in)
            continue
        linear = ZERO
        for axis in group_out:
            linear = linear * outside[axis] + indices[axis]
        result.extend(_digits(environment, linear, group_in))
    return tuple(result)


def product(extents: tuple[Poly, ...]) -> Poly:
    """The number of elements of a shape."""
    total = poly(1)
    for extent in extents:
        total = total * extent
    return total


def _digits(environment: Environment, linear: Poly, extents: list[Poly]) -> list[Poly]:
    """Mixed-radix digits of a linear index, most significant first."""
    found: list[Poly] = []
    rest = linear
    for position in range(1, len(extents)):
        weight = poly(1)
        for extent in extents[position:]:
            weight = weight * extent
        quotient, rest = divmod_index(environment, rest, weight)
        found.append(quotient)
    found.append(rest)
    return found


def digits(environment: Environment, linear: Poly, extents: list[Poly]) -> list[Poly]:
    """Quotient and digits of a linear index: ``[linear // prod(extents), digit, ...]``."""
    weight = poly(1)
    for extent in extents:
        weight = weight * extent
    quotient, rest = divmod_index(environment, linear, weight)
    return [quotient, *_digits(environment, rest, extents)]


def divide(value: Poly, divisor: Poly) -> Poly | None:
    """Value / divisor if that is a polynomial with whole coefficients, else None."""
    if value == divisor:
        return poly(1)
    if len(divisor.terms) != 1:
        return None
    monomial, coefficient = divisor.terms[0]
    needed = dict(monomial)
    result: dict[Monomial, Number] = {}
    for m, c in value.terms:
        powers = dict(m)
        for atom, power in needed.items():
            if powers.get(atom, 0) < power:
                return None
            powers[atom] -= power
        if c % coefficient:
            return None
        result[tuple((a, powers[a]) for a, _ in m if powers[a])] = c // coefficient
    return Poly(result)


def divmod_index(environment: Environment, linear: Poly, weight: Poly) -> tuple[Poly, Poly]:
    """(linear // weight, linear % weight) for an index ``linear`` >= 0, exact where it can be proven.

    Terms that are multiples of the weight go to the quotient; what is left is the remainder if its
    upper bound lies below the weight.  Otherwise the digits stay functions.  If a plain index is
    the cause, ``Environment.watch_splits`` notes where it should be split.
    """
    if weight == 1:
        return linear, ZERO
    quotient, remainder = _multiples(linear, weight)
    bound = upper_bound(remainder)
    if is_nonnegative(remainder) and bound is not None and is_nonnegative(environment.facts.normal(weight - 1 - bound)):
        return quotient, remainder
    for atom in remainder.sorted_atoms():
        if isinstance(atom, Index):
            stride = remainder.coefficient_of(atom)
            divisor = divide(weight, stride)
            if divisor is not None and divisor != 1 and not is_nonnegative(divisor - atom.bound):
                environment.note_split(atom, divisor)
                break
    else:
        carried = _carried(quotient, remainder, weight)
        if carried is not None:
            return carried
    return quotient + floordiv(remainder, weight), remainder - floordiv(remainder, weight) * weight


def _carried(quotient: Poly, remainder: Poly, weight: Poly) -> tuple[Poly, Poly] | None:
    """(linear // weight, linear % weight) where the quotient is one of two neighbours and a comparison tells which.

    A shift by one that grows with the row, as in relative attention, reads rows of S elements as rows of S + 1.
    """
    if len(weight.terms) > 1:
        lead = Poly({weight.terms[-1][0]: weight.terms[-1][1]})
        more, _ = _multiples(remainder, lead)
        quotient, remainder = quotient + more, remainder - more * weight
    for _ in range(2):
        if is_nonnegative(remainder):
            break
        quotient, remainder = quotient - 1, remainder + weight
    bound = upper_bound(remainder)
    if not is_nonnegative(remainder) or bound is None or not is_nonnegative(2 * weight - 1 - bound):
        return None
    if is_nonnegative(weight - 1 - bound):
        return quotient, remainder
    beyond = ind(less_equal(weight, remainder))
    return quotient + beyond, remainder - beyond * weight


def _multiples(value: Poly, weight: Poly) -> tuple[Poly, Poly]:
    """(q, r) with value = q * weight + r, where q takes all terms that are multiples of the weight."""
    quotient, remainder = ZERO, ZERO
    for monomial, coefficient in value.terms:
        term = Poly({monomial: coefficient})
        part = divide(term, weight)
        if part is None:
            remainder = remainder + term
        else:
            quotient = quotient + part
    return quotient, remainder


def floordiv(value: Poly, divisor: Poly) -> Poly:
    """floor(value / divisor), for divisor > 0."""
    a, b = value.constant, divisor.constant
    if a is not None and b:
        return poly(int(a // b))
    exact = divide(value, divisor)
    if exact is not None:
        return exact
    whole, rest = _multiples(value, divisor)
    if whole.terms:
        return whole + floordiv(rest, divisor)
    if is_nonnegative(value):
        bound = upper_bound(value)
        if bound is not None and is_nonnegative(divisor - 1 - bound):
            return ZERO
    for stride in _strides(value, divisor):
        whole, rest = _multiples(value, stride)
        bound = upper_bound(rest)
        inner = divide(divisor, stride)
        if inner is not None and is_nonnegative(rest) and bound is not None and is_nonnegative(stride - 1 - bound):
            return floordiv(whole, inner)  # (h * S + i) // (2 * S) is h // 2
    return of(Apply("floordiv", (value, divisor), floordiv, integer=True))


def _strides(value: Poly, divisor: Poly) -> list[Poly]:
    """What indices are multiplied by, where it divides the divisor."""
    found = [value.coefficient_of(a) for a in value.sorted_atoms() if isinstance(a, Index)]
    return [s for s in found if s != 1 and s != divisor and divide(divisor, s) is not None]


def index_quotient(index: Index, group: Poly) -> Atom:
    """The quotient of an index by the size of a group, which nothing simplifies."""
    quotient = floordiv(of(index), group).single_atom
    assert quotient is not None
    return quotient
