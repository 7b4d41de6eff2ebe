"""One site explained."""

from __future__ import annotations

from dataclasses import dataclass

from ..rewriter.records.binding import Binding
from ..rewriter.records.site import Site
from .formula import formula
from .refused import Stop, reading_of, stop_of
from .steps import Step, steps


@dataclass(frozen=True)
class Explanation:
    """What was recognised at one site, and why.

    Attributes:
        site: The site's name.
        formula: What it computes, as lines of algebra.
        steps: The proof, if it is proven.
        slopes: Per head, if they are constants.
        stop: Why it is refused, if it is.
    """

    site: str
    formula: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    slopes: tuple[float, ...] = ()
    stop: Stop | None = None


def explain(site: Site) -> Explanation:
    """Explain a site of an analysis whose graph has not been changed since."""
    if site.binding is None:
        return Explanation(site.name, reading_of(site), stop=stop_of(site))
    return Explanation(site.name, formula(site.binding), steps(site.interpreter, site.binding), slopes_of(site.binding))


def slopes_of(binding: Binding) -> tuple[float, ...]:
    """The slopes as the fused node gets them; empty if only run time knows them."""
    given = binding.given_slopes
    return () if given is None else tuple(float(slope) for slope in given)
