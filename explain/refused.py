"""A refused site: how far the analysis came, the node and the numbers that stopped it, and the cure."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph.index import label
from ..rewriter.records.site import Site
from ..rewriter.verdicts import Stage
from .formula import reading, short
from .places import Place, place_of, place_of_node

STAGES: dict[Stage, str] = {
    Stage.ANCHOR: "a softmax or an attention operator was found",
    Stage.SCORES: "the scores were taken apart into product, added terms and masks",
    Stage.BIAS: "the added terms were compared with slope times distance",
    Stage.POSITIONS: "the positions were traced to integers",
    Stage.MASK: "the masks were separated from the bias",
    Stage.LIVENESS: "nobody else needs the scores",
    Stage.EMIT: "tensors were chosen for every input of the fused node",
}
"""What the analysis does at each stage."""


@dataclass(frozen=True)
class Stop:
    """Why a site is left as it is.

    Attributes:
        code: The stable refusal code.
        meaning: What the code means.
        stage: The furthest stage reached.
        stages: How many stages there are.
        doing: What happens at that stage.
        place: The node, constant or input that stopped it.
        tensor: The offending tensor.
        node: The node that the refusal itself names, often the softmax that the term reaches.
        detail: The exact finding: values, indices, sizes.
        remedy: What the user can do.
    """

    code: str
    meaning: str
    stage: Stage
    stages: int
    doing: str
    place: Place
    tensor: str
    node: str
    detail: str
    remedy: str


def stop_of(site: Site) -> Stop:
    """Why a refused site was refused.

    Raises:
        ValueError: The site is proven.
    """
    refusal = site.refusal
    if refusal is None:
        raise ValueError(f"site '{site.name}' is not refused")
    place = _place(site)
    return Stop(
        code=f"{refusal.code.number} {refusal.code.title}",
        meaning=refusal.code.meaning,
        stage=refusal.stage,
        stages=len(Stage),
        doing=STAGES[refusal.stage],
        place=place,
        tensor=place.tensor if refusal.term is not None else refusal.tensor or place.tensor,
        node=refusal.node,
        detail=short(refusal.detail),
        remedy=refusal.code.remedy,
    )


def reading_of(site: Site) -> tuple[str, ...]:
    """The formula of a refused site as far as it was read."""
    return () if site.reading is None else reading(site.reading)


def _place(site: Site) -> Place:
    """The node at which the offending term comes into the scores, not only the softmax that it reaches."""
    refusal = site.refusal
    assert refusal is not None
    interpreter = site.interpreter
    if refusal.enters:
        return place_of(interpreter, refusal.enters)
    if refusal.node != label(site.anchor):
        node = next((n for n in interpreter.scope.graph.node if label(n) == refusal.node), None)
        if node is not None:
            return place_of_node(node)
    if refusal.tensor and interpreter.scope.owner(refusal.tensor) is not None:
        return place_of(interpreter, refusal.tensor)
    return place_of_node(site.anchor)
