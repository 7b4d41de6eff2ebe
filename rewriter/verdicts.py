"""Refusals of one attention site: how far the analysis came, a stable code, and the finding.

Refusal codes are promised to users: numbers are never reused for something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

from onnx import NodeProto

from ..algebra import Poly
from ..graph.index import label


class Stage(IntEnum):
    """How far the analysis of a site came; a refused site reports the furthest one."""

    ANCHOR = 1
    SCORES = 2
    BIAS = 3
    POSITIONS = 4
    MASK = 5
    LIVENESS = 6
    EMIT = 7


class Worded(Enum):
    """A code with its words: (number, short name, what it means, what the user can do)."""

    _value_: tuple[str, str, str, str]

    @property
    def number(self) -> str:
        """The stable code, ``ALBnnn``."""
        return self.value[0]

    @property
    def title(self) -> str:
        """The stable short name."""
        return self.value[1]

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return self.value[2]

    @property
    def remedy(self) -> str:
        """What the user can do."""
        return self.value[3]


class Code(Worded):
    """Refusal codes: (number, short name, what it means, what the user can do)."""

    NO_BIAS = (
        "ALB100",
        "no-alibi-term",
        "nothing that grows with the distance between query and key is added to the scores",
        "nothing to do: this attention has no ALiBi bias",
    )
    SOFTMAX_AXIS = (
        "ALB101",
        "softmax-axis",
        "the softmax does not run over the keys of one query",
        "nothing to do: this is not an attention over keys",
    )
    NO_PRODUCT = (
        "ALB102",
        "no-query-key-product",
        "the softmax input is not a matrix product of query and key plus terms",
        "check that the scores are linear in query times key (no tanh soft-capping, no product with a bias)",
    )
    NO_VALUE_PRODUCT = (
        "ALB103",
        "no-value-product",
        "the probabilities are not multiplied with a value matrix over the key axis",
        "nothing to do: this softmax is not followed by a product with values",
    )
    NONLINEAR_SCORE = (
        "ALB104",
        "score-not-linear",
        "something other than scaling, adding and masking happens between the product and the softmax",
        "remove soft-capping or score products; the fused node has none",
    )
    EXTRA_COLUMNS = (
        "ALB105",
        "extra-columns",
        "columns that are no keys take part in the softmax (an attention sink)",
        "nothing to do: the fused node has no sinks",
    )
    SCALE_UNKNOWN = (
        "ALB110",
        "scale-unknown",
        "the factor of query times key is not a constant",
        "export with a constant scale",
    )
    ESCAPES = (
        "ALB120",
        "value-escapes",
        "scores or probabilities are used elsewhere or are graph outputs, so they must be computed anyway",
        "export without attention outputs (output_attentions=False)",
    )
    CROSSES_SCOPE = (
        "ALB121",
        "crosses-scope",
        "parts of the attention lie in different graphs (If, Loop or Scan bodies)",
        "export the attention inside one graph",
    )
    TRAINING = (
        "ALB122",
        "live-dropout",
        "a Dropout in training mode changes the probabilities",
        "export in evaluation mode (model.eval())",
    )
    NOT_LINEAR = (
        "ALB200",
        "bias-not-alibi",
        "a term that depends on query and key position is not slope times distance",
        "nothing to do for another bias, which must stay; if this is ALiBi in a form that is not read, report the "
        "formula that `rewrite explain` shows",
    )
    TABLE_NOT_LINEAR = (
        "ALB201",
        "table-not-alibi",
        "a constant bias table is not slope times distance over its whole extent",
        "nothing to do: this is a learned, bucketed or otherwise different bias; it must stay materialised",
    )
    SLOPE_NOT_PER_HEAD = (
        "ALB202",
        "slope-not-per-head",
        "the factor of the distance depends on more than the head",
        "nothing to do: slopes of ALiBi belong to heads only",
    )
    OFFSET = (
        "ALB203",
        "offset-unproven",
        "the distance is not measured from the query's own key position",
        "check that cached keys are counted in the query positions",
    )
    POSITIONS_DATA = (
        "ALB204",
        "positions-from-data",
        "the positions are computed from activations, not from indices or an integer mask",
        "nothing to do: this is a data-dependent bias, not ALiBi",
    )
    SLOPES_UNKNOWN = (
        "ALB205",
        "slopes-unknown",
        "no value [H] holds the slopes",
        "report this model: the slopes should be a constant or one value per head",
    )
    SIZES = (
        "ALB206",
        "sizes-excluded",
        "the bias would be proven only for sizes that no real run has",
        "export so that indices count from the front and every size can be 1 and more",
    )
    NARROW_TYPE = (
        "ALB207",
        "narrow-type",
        "the bias passes through a number type that does not hold it at every length: it is rounded, or wraps around",
        "export so that positions and bias are computed in the type of the scores (or in int64 and float32), or take a "
        "rounded bias for what it was before with --exact-bias",
    )
    MASK_UNKNOWN = (
        "ALB300",
        "mask-not-expressible",
        "a mask cannot be separated from the bias",
        "report this model, or add the mask as a term of its own before exporting",
    )
    FINITE_MASK = (
        "ALB301",
        "finite-mask",
        "hidden keys get a finite score that is not far enough below all others to be no key at all",
        "export with finfo.min or -inf for hidden keys",
    )
    LAYOUT = (
        "ALB400",
        "layout-unknown",
        "query, key or value cannot be brought to [B, H, S, D]",
        "report this model; until then the attention stays as it is",
    )
    DTYPE = (
        "ALB401",
        "dtype",
        "the attention is not computed in float32, float16 or bfloat16",
        "export the model in one of these types",
    )
    FEATURE = (
        "ALB402",
        "fused-op-feature",
        "an attention operator uses a feature that the fused node has not",
        "export without this feature",
    )
    CAUSALITY = (
        "ALB403",
        "causality-unproven",
        "an operator's own causality is not aligned with the last key",
        "export with equal query and key lengths, or with an explicit mask",
    )
    TOO_COMPLEX = (
        "ALB404",
        "too-complex",
        "what is added to the scores grows into an expression far larger than any exported model has",
        "nothing to do: the proof is bounded, so that no file makes it run out of time or memory",
    )
    QUANTISED = (
        "ALB405",
        "quantised-core",
        "the attention is computed in integers between its query and its output",
        "leave the products and the softmax of attention out when quantising; quantised projections are no obstacle",
    )
    PROBE = (
        "ALB500",
        "probe-disagrees",
        "the proof and a numeric evaluation of the bias disagree",
        "report this model: it is an error in alibi-rewriter",
    )


class Notice(Worded):
    """What is told of sites that are rewritten: (number, short name, what it means, what the user can do)."""

    EMPTY_ROWS = (
        "ALB600",
        "rows-without-keys",
        "a row that sees no key yields something else than in the original",
        "nothing to do where such rows are padding, which no valid token reads; for the same numbers there, hide keys "
        "by one mask, with the lowest number of the type in place of the score",
    )

    def text(self, detail: str) -> str:
        """A line of the report."""
        return f"[{self.number} {self.title}] {self.meaning}: {detail}"


@dataclass
class Refusal(Exception):
    """One attention site is left as it is.

    Attributes:
        code: What is wrong.
        stage: The furthest stage that the analysis reached.
        node: Name (or output) of the offending node.
        tensor: The offending tensor, if there is one.
        detail: The exact finding: values, indices, sizes.
        steps: The derivation as far as it went.
        term: The added term that fits nowhere, if that is the reason.
        enters: The tensor with which the term comes into the scores, if that was asked for.
    """

    code: Code
    stage: Stage
    node: str = ""
    tensor: str = ""
    detail: str = ""
    steps: list[str] = field(default_factory=list)
    term: Poly | None = None
    enters: str = ""

    def __str__(self) -> str:
        place = f" at {self.node}" if self.node else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"[{self.code.number} {self.code.title}]{place}{detail}"


class Judged(Protocol):
    """An attention that a refusal is about."""

    @property
    def anchor(self) -> NodeProto:
        """Its softmax or operator."""

    @property
    def scores(self) -> str:
        """The tensor that enters the softmax, or the bias of an operator."""


@dataclass(frozen=True)
class Refuser:
    """Makes the refusals of a module.

    Attributes:
        stage: How far the analysis has come there; a refusal that differs says so.
    """

    stage: Stage

    def __call__(
        self,
        code: Code,
        about: NodeProto | Judged | str,
        detail: str = "",
        *,
        tensor: str | None = None,
        stage: Stage | None = None,
        term: Poly | None = None,
        steps: Sequence[str] = (),
    ) -> Refusal:
        """A refusal, to be raised.

        Args:
            code: What is wrong.
            about: The offending node or its name, or the attention: then it is about its anchor and scores.
            detail: The exact finding.
            tensor: The offending tensor, if it is not the scores.
            stage: The stage, if it is not that of the module.
            term: The added term that fits nowhere.
            steps: The derivation as far as it went.
        """
        if isinstance(about, str):
            node, whole = about, ""
        elif isinstance(about, NodeProto):
            node, whole = label(about), ""
        else:
            node, whole = label(about.anchor), about.scores
        told = whole if tensor is None else tensor
        return Refusal(code, self.stage if stage is None else stage, node, told, detail, list(steps), term)
