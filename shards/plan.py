"""What is cut and what is not: for each attention, for the features between two products, and for the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto, NodeProto

from ..fused.family import is_fused
from ..graph.index import Scope, index_graph, label, operator, opset_versions, walk
from ..rewriter.interpret import Interpreter
from ..rewriter.interpret.scopes import interpreted
from .constants import check_constant, is_weight
from .cuts import AxisCut, NotSeparable, features
from .follow import Cuts, Follower
from .heads import Heads, divide
from .local import Change, change
from .question import Question
from .rules.attention import heads_of
from .sums import share_sums
from .vocabulary import ends, share_of

PRODUCTS = ("MatMul", "Gemm")
FEWEST_FEATURES = 16
"""Products over fewer features per rank than this are left whole: a sum over the ranks takes longer than they do."""


ON_REQUEST = "it makes what the model puts out; --cut-vocabulary cuts it where that divides"
UNDIVIDED = "it makes what the model puts out; the ranks do not divide it, or its weight is computed, or more is added"
"""Why a product that ends the model is whole: nobody asked for it, or it cannot be done."""


@dataclass(frozen=True)
class AttentionCut:
    """One fused attention.

    Attributes:
        node: Its name.
        heads, key_heads: How many it has; 0 if that is unknown.
        divided: By rank; None if it is whole on every rank.
        reason: Why it is.
    """

    node: str
    heads: int
    key_heads: int
    divided: Heads | None
    reason: str = ""


@dataclass(frozen=True)
class Features:
    """Two products and what stands between them.

    Attributes:
        node: The name of the second product.
        features: Over how many it sums.
    """

    node: str
    features: int


@dataclass
class CutPlan:
    """How a model is cut.

    Attributes:
        model: The rewritten model; it is not changed.
        base_dir: Where its external data are.
        ranks: How many files it becomes.
        interpreter: Of its main graph.
        cuts: Which parts of tensors ranks hold.
        gathered: Tensors that are made in parts and gathered, with their cut.
        attentions: Every attention.
        features: Products whose features are cut.
        vocabulary: Products and tables that are cut along the vocabulary's side.
        whole: Weights of products that every rank holds all of, by the product's name, and why.
    """

    model: ModelProto
    base_dir: Path
    ranks: int
    interpreter: Interpreter
    cuts: Cuts = field(default_factory=Cuts)
    gathered: dict[str, AxisCut] = field(default_factory=dict)
    attentions: list[AttentionCut] = field(default_factory=list)
    features: list[Features] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    whole: dict[str, str] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        """The main graph."""
        return self.interpreter.scope

    def question(self, number: int) -> Question:
        """A node with the cuts around it."""
        node = self.scope.graph.node[number]
        cuts = self.cuts
        inputs = {}
        for position, name in enumerate(node.input):
            use = number, position
            cut = cuts.constants.get(use) or cuts.sliced.get(use) or cuts.tensors.get(name)
            if cut is not None:
                inputs[position] = cut
        outputs = {p: cuts.tensors[name] for p, name in enumerate(node.output) if name in cuts.tensors}
        return Question(node, self.interpreter, self.ranks, inputs, outputs, cuts.heads.get(number))

    def change(self, number: int, rank: int) -> Change | None:
        """How a node differs on a rank.

        Raises:
            NotSeparable: The rank's part cannot be said in the node's words.
        """
        question = self.question(number)
        if not (question.inputs or question.outputs or question.heads):
            return None
        node = question.node
        try:
            return change(question, rank)
        except NotSeparable as reason:
            raise NotSeparable(f"'{label(node)}' ({node.op_type}): {reason}") from None


def make(model: ModelProto, base_dir: Path, ranks: int, *, vocabulary: bool = False) -> CutPlan:
    """Decide what is cut.

    Args:
        model: A rewritten model.
        base_dir: Where its external data are.
        ranks: How many ranks there are, two at least.
        vocabulary: Cut embeddings and the product with the vocabulary as well.
    """
    root = index_graph(model.graph, opset_versions(model), base_dir)
    plan = CutPlan(model, base_dir, ranks, next(interpreted(root)))
    planner = _Planner(plan)
    for number, node in enumerate(model.graph.node):
        if is_fused(node):
            planner.attention(number, node)
    for scope in walk(root):
        if scope is not root:
            inside = "it is inside the body of another node"
            plan.attentions += [AttentionCut(label(n), 0, 0, None, inside) for n in scope.graph.node if is_fused(n)]
    for number, node in enumerate(model.graph.node):
        if operator(node) in PRODUCTS:
            planner.features(number, node)
    share_sums(plan.scope, plan.interpreter, plan.cuts)
    if vocabulary:
        for number, node in enumerate(model.graph.node):
            planner.vocabulary(number, node)
    planner.note_whole(vocabulary=vocabulary)
    return plan


class _Planner:
    def __init__(self, plan: CutPlan) -> None:
        self._plan = plan
        self._numbers = {id(node): number for number, node in enumerate(plan.scope.graph.node)}

    def _follower(self) -> Follower:
        return Follower(self._plan.interpreter, self._numbers, self._plan.cuts, self._plan.ranks)

    def _keep(self, follower: Follower) -> None:
        """Take over what was found, if every node can say on every rank what it is.

        Raises:
            NotSeparable: One cannot.
        """
        follower.settle()
        plan, found = self._plan, follower.found
        if not found.summed:
            raise NotSeparable("no product behind it sums what is cut")
        for (number, position), cut in found.constants.items():
            check_constant(plan.scope, plan.scope.graph.node[number].input[position], cut)
        for cut in found.sliced.values():
            if any(not part for part in cut.parts):
                raise NotSeparable("a rank would get nothing of a tensor")
        before = plan.cuts
        plan.cuts = Cuts(**{name: dict(held) for name, held in vars(before).items()})
        plan.cuts.add(found)
        try:
            touched = {self._numbers[id(n)] for name in found.tensors for n in self._around(name)} | found.heads.keys()
            for number in sorted(touched):
                for rank in range(plan.ranks):
                    plan.change(number, rank)
        except NotSeparable:
            plan.cuts = before
            raise

    def _around(self, name: str) -> Iterator[NodeProto]:
        scope = self._plan.scope
        if name in scope.producers:
            yield scope.producers[name]
        yield from (use.node for use in scope.consumers.get(name, ()) if use.node is not None)

    # --- attention -------------------------------------------------------------------------------------

    def attention(self, number: int, node: NodeProto) -> None:
        plan = self._plan
        heads = key_heads = 0
        try:
            heads, key_heads = heads_of(Question(node, plan.interpreter, plan.ranks, {}, {}))
            divided = divide(heads, key_heads, plan.ranks)
            follower = self._follower()
            follower.cut_heads(node, divided)
            self._keep(follower)
        except NotSeparable as reason:
            plan.attentions.append(AttentionCut(label(node), heads, key_heads, None, str(reason)))
        else:
            plan.attentions.append(AttentionCut(label(node), heads, key_heads, divided))
            self._note_features(follower.found, node)

    def _note_features(self, found: Cuts, node: NodeProto) -> None:
        """A projection may serve features as well.  They are cut with the attention that reads from it."""
        scope = self._plan.scope
        behind = {node.output[0]}
        for each in scope.graph.node:  # in order, so that one pass finds all that is made of the attention
            if behind.intersection(each.input):
                behind.update(output for output in each.output if output in found.tensors)
        for number in found.summed.values():
            product = scope.graph.node[number]
            dims = self._plan.interpreter.dims(product.input[0])
            if product.input[0] not in behind and dims and dims[-1].constant is not None:
                self._plan.features.append(Features(label(product), int(dims[-1].constant)))

    # --- features --------------------------------------------------------------------------------------

    def features(self, number: int, node: NodeProto) -> None:
        """Try the axis over which a product with a weight sums."""
        plan = self._plan
        dims = plan.interpreter.dims(node.input[0])
        taken = node.input[0] in plan.cuts.tensors or node.output[0] in plan.cuts.tensors
        if taken or not is_weight(plan.scope, node.input[1]) or is_weight(plan.scope, node.input[0]):
            return
        extent = plan.interpreter.facts.normal(dims[-1]).constant if dims else None
        if not dims or extent is None:
            plan.whole[label(node)] = f"the shape of '{node.input[0]}' is unknown"
            return
        if extent < FEWEST_FEATURES * plan.ranks:
            return
        try:
            follower = self._follower()
            follower.cut_tensor(node.input[0], AxisCut(len(dims) - 1, int(extent), features(int(extent), plan.ranks)))
            self._keep(follower)
        except NotSeparable as reason:
            plan.whole[label(node)] = str(reason)
        else:
            plan.features.append(Features(label(node), int(extent)))

    # --- vocabulary ------------------------------------------------------------------------------------

    def vocabulary(self, number: int, node: NodeProto) -> None:
        """Cut an embedding's features, or the columns of the product that ends the model; gather behind them."""
        plan = self._plan
        share = share_of(plan.interpreter, plan.cuts, node, plan.ranks)
        if share is not None:
            plan.cuts.constants[number, share.position] = share.weight
            plan.gathered[node.output[0]] = share.output
            plan.vocabulary.append(label(node))

    # --- what is left ----------------------------------------------------------------------------------

    def note_whole(self, *, vocabulary: bool) -> None:
        """Say of every product with a weight that is whole, why it is."""
        plan = self._plan
        cut = {number for number, _ in plan.cuts.constants}
        for number, node in enumerate(plan.scope.graph.node):
            weight = operator(node) in PRODUCTS and is_weight(plan.scope, node.input[1])
            held = any(name in plan.cuts.tensors for name in (*node.input, *node.output))
            if not weight or number in cut or held:
                plan.whole.pop(label(node), None)
            elif ends(plan.scope, node.output[0]):
                plan.whole[label(node)] = UNDIVIDED if vocabulary else ON_REQUEST
            else:
                plan.whole.setdefault(label(node), "it sums over too few features for the ranks")
