"""Following a cut through the graph, in both directions, until every node around it is settled.

It starts with cuts that are wanted: those of an attention by heads, or that of the axis over which a product sums.
Each node says what follows for its other tensors (``rules``).  A cut ends at constants, of which a rank gets its part;
at tensors that are whole, where a product makes columns; and at sums over the ranks.  If any node says that nothing
can follow, or two say different things, all of it is given up, and what was found before stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto

from ..graph.index import label, operator
from ..rewriter.interpret import Interpreter
from .constants import is_constant
from .cuts import AxisCut, NotSeparable, features, union
from .heads import Heads
from .question import How, Question
from .rules import RULES

MOST_NODES = 4096
"""Nodes that one cut may reach.  A layer has some hundred."""

PASSING = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Identity"})
"""Operators that leave every element what it is."""

SUMMED = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Types that are summed over the ranks."""

Use = tuple[int, int]
"""An input of a node: the node's number in the graph, and the position."""


@dataclass
class Cuts:
    """What is cut, in a whole graph or by one attempt.

    Attributes:
        tensors: Computed tensors and graph inputs of which a rank holds a part.
        constants: Uses of constants of which the node gets a part.
        sliced: Uses of whole tensors of which the node gets a part.
        summed: Outputs that are sums over the ranks.
        heads: Heads of the fused nodes, by their number in the graph.
    """

    tensors: dict[str, AxisCut] = field(default_factory=dict)
    constants: dict[Use, AxisCut] = field(default_factory=dict)
    sliced: dict[Use, AxisCut] = field(default_factory=dict)
    summed: dict[str, int] = field(default_factory=dict)
    heads: dict[int, Heads] = field(default_factory=dict)

    def add(self, other: Cuts) -> None:
        """Take over what another attempt has found."""
        for name in vars(self):
            getattr(self, name).update(getattr(other, name))


class Follower:
    """One attempt.

    Args:
        interpreter: Of the main graph.
        numbers: Numbers of its nodes, by identity.
        before: What is cut already.
        ranks: How many ranks there are.

    Attributes:
        found: What this attempt cuts.
    """

    def __init__(self, interpreter: Interpreter, numbers: Mapping[int, int], before: Cuts, ranks: int) -> None:
        self._interpreter = interpreter
        self._scope = interpreter.scope
        self._numbers = numbers
        self._before = before
        self._ranks = ranks
        self.found = Cuts()
        self._claims: dict[str, dict[Use, AxisCut]] = {}
        self._pending: deque[NodeProto] = deque()
        self._queued: set[int] = set()
        self._reached: dict[int, NodeProto] = {}

    def cut_heads(self, node: NodeProto, heads: Heads) -> None:
        """Begin with a fused node."""
        self.found.heads[self._numbers[id(node)]] = heads
        self._visit(node)

    def cut_tensor(self, name: str, cut: AxisCut) -> None:
        """Begin with a tensor.

        Raises:
            NotSeparable: It is cut otherwise.
        """
        self._set(name, cut)

    def settle(self) -> None:
        """Follow everything to its end.

        Raises:
            NotSeparable: That cannot be done.
        """
        while True:
            while self._pending:
                node = self._pending.popleft()
                self._queued.discard(id(node))
                self._ask(node)
            if not self._settle_a_claim() and not self._fill_a_gap():
                break
        for node in list(self._reached.values()):
            if not self._ask(node):
                raise NotSeparable(f"'{label(node)}' ({node.op_type}) uses parts of which only some are cut")
        if self._pending:
            raise NotSeparable("a cut does not come to rest")

    # --- asking ----------------------------------------------------------------------------------------

    def _visit(self, node: NodeProto) -> None:
        if id(node) not in self._reached:
            if len(self._reached) >= MOST_NODES:
                raise NotSeparable(f"the cut reaches more than {MOST_NODES} nodes")
            self._reached[id(node)] = node
        if id(node) not in self._queued:
            self._queued.add(id(node))
            self._pending.append(node)

    def _ask(self, node: NodeProto) -> bool:
        """Ask what follows around a node, and note it; False where the node has to wait."""
        number = self._numbers.get(id(node))
        if number is None:
            raise NotSeparable(f"'{label(node)}' is inside the body of another node")
        question = Question(
            node,
            self._interpreter,
            self._ranks,
            {p: cut for p in range(len(node.input)) if (cut := self._known(number, p, node.input[p])) is not None},
            {p: cut for p, name in enumerate(node.output) if (cut := self._of(name)) is not None},
            self.found.heads.get(number) or self._before.heads.get(number),
        )
        done = _answered(question)
        for position, cut in question.wanted_outputs.items():
            if node.output[position]:
                self._set(node.output[position], cut)
        for position, (how, cut) in question.wanted_inputs.items():
            self._want(number, position, node.input[position], how, cut)
        for position in question.partial:
            name = node.output[position]
            if self._interpreter.dtype(name) not in SUMMED:
                raise NotSeparable(f"'{label(node)}': sums over the ranks are of float32, float16 and bfloat16")
            if self._of(name) is not None:
                raise NotSeparable(f"'{label(node)}': a sum over the ranks would be cut")
            self.found.summed[name] = number
        return done

    def _known(self, number: int, position: int, name: str) -> AxisCut | None:
        use = number, position
        for cuts in (self.found, self._before):
            if use in cuts.constants:
                return cuts.constants[use]
            if use in cuts.sliced:
                return cuts.sliced[use]
        return self._of(name)

    def _of(self, name: str) -> AxisCut | None:
        return self.found.tensors.get(name) or self._before.tensors.get(name)

    # --- noting ----------------------------------------------------------------------------------------

    def _want(self, number: int, position: int, name: str, how: How, cut: AxisCut) -> None:
        use = number, position
        if self.found.sliced.get(use) == cut:
            return
        if is_constant(self._scope, name):
            self._note(self.found.constants, use, cut, name)
        elif how is How.SLICED and self._of(name) is None:
            dims = self._interpreter.dims(name)
            if dims is None or dims[cut.axis] != cut.period:
                raise NotSeparable(f"the extent of '{name}' is only known at run time")
            self._note(self.found.sliced, use, cut, name)
        elif how is How.PART:
            self._claim(use, name, cut)
        else:
            self._set(name, cut)

    def _note(self, noted: dict[Use, AxisCut], use: Use, cut: AxisCut, name: str) -> None:
        if not noted.setdefault(use, cut).agrees(cut):
            raise NotSeparable(f"'{name}' is wanted in two ways")

    def _claim(self, use: Use, name: str, cut: AxisCut) -> None:
        """A node needs at least this.  What a rank gets is decided once all that take parts have said so."""
        known = self._of(name)
        if known is not None:
            if not known.agrees(cut) and union([known, cut]) != known:
                raise NotSeparable(f"'{name}' is cut, but not so that every rank holds what it needs")
            return
        self._claims.setdefault(name, {})[use] = cut
        if self._users(name) <= self._claims[name].keys() and not self._pass_on(name):
            self._set(name, union(list(self._claims[name].values())))

    def _users(self, name: str) -> set[Use]:
        """Uses of a tensor by nodes that take more of it than its shape."""
        users = [(use.node, use.position) for use in self._scope.consumers[name] if use.node is not None]
        return {(self._numbers.get(id(node), -1), position) for node, position in users if operator(node) != "Shape"}

    def _pass_on(self, name: str) -> bool:
        """What is wanted of a tensor is wanted of the one that it was made from, if others want more of that."""
        made = self._scope.producers.get(name)
        if made is None or operator(made) not in PASSING or name in self._scope.outputs:
            return False
        source = made.input[0]
        if source not in self._scope.producers or is_constant(self._scope, source) or len(self._users(source)) < 2:
            return False
        wanted = union(list(self._claims[name].values()))
        question = Question(made, self._interpreter, self._ranks, {}, {0: wanted})
        _answered(question)
        if 0 not in question.wanted_inputs:  # it is whole there, as one key head is that all share
            return False
        _, cut = question.wanted_inputs[0]
        self._claim((self._numbers[id(made)], 0), source, cut)
        return True

    def _fill_a_gap(self) -> bool:
        """A projection may serve more than what is followed.  A piece of it that nobody asks for is cut evenly."""
        for node in self._reached.values():
            if operator(node) != "Split" or self._of(node.input[0]) is not None:
                continue
            known = [cut.axis for name in node.output if (cut := self._of(name)) is not None]
            for name in node.output:
                dims = self._interpreter.dims(name)
                extent = dims[known[0]].constant if dims and known else None
                if self._of(name) is None and name in self._scope.consumers and extent is not None:
                    self._set(name, AxisCut(known[0], int(extent), features(int(extent), self._ranks)))
                    return True
        return False

    def _settle_a_claim(self) -> bool:
        """Nobody else says anything: of the first tensor that is only wanted in part, take what is wanted."""
        for name, claims in list(self._claims.items()):
            if self._of(name) is None and not self._passed_on(name):
                self._set(name, union(list(claims.values())))
                return True
        return False

    def _passed_on(self, name: str) -> bool:
        """Whether what is wanted of a tensor waits for what becomes of another one."""
        made = self._scope.producers.get(name)
        return made is not None and (self._numbers[id(made)], 0) in self._claims.get(
            made.input[0] if made.input else "", {}
        )

    def _set(self, name: str, cut: AxisCut) -> None:
        known = self._of(name)
        if known is not None:
            if not known.agrees(cut):
                raise NotSeparable(f"'{name}' would have to be cut in two ways")
            return
        if is_constant(self._scope, name):
            raise NotSeparable(f"'{name}' is a constant")
        if name in self._scope.initializers:
            raise NotSeparable(f"'{name}' is a weight that an input of the model may replace")
        if not all(cut.parts):
            raise NotSeparable(f"a rank would hold nothing of '{name}'")
        if name in self._scope.inputs and self._scope.parent is None and not self.found.heads:
            raise NotSeparable(f"'{name}' is an input of the model")
        if name in self._scope.outputs and not self.found.heads:
            raise NotSeparable(f"'{name}' is an output of the model")
        self.found.tensors[name] = cut
        made = self._scope.producers.get(name)
        if made is not None:
            self._visit(made)
        for use in self._scope.consumers.get(name, ()):
            if use.scope is not self._scope:
                user = label(use.node) if use.node is not None else use.scope.path
                raise NotSeparable(f"'{name}' is used by '{user}' inside the body of another node")
            if use.node is None:
                continue
            place = self._numbers.get(id(use.node), -1), use.position
            if place in self._before.sliced:
                raise NotSeparable(f"'{name}' is whole for another part of the model")
            self.found.sliced.pop(place, None)
            self._visit(use.node)


def _answered(question: Question) -> bool:
    """What a node's rule says.

    Raises:
        NotSeparable: That nothing follows; or there is no rule.
    """
    node = question.node
    rule = RULES.get(("" if operator(node) else node.domain, node.op_type))
    if rule is None:
        raise NotSeparable(f"'{label(node)}' ({node.op_type}) is not known to treat parts for themselves")
    try:
        return rule(question)
    except NotSeparable as reason:
        raise NotSeparable(f"'{label(node)}' ({node.op_type}): {reason}") from None
    except (ArithmeticError, LookupError, ValueError):  # a file may say anything
        raise NotSeparable(f"'{label(node)}' ({node.op_type}) contradicts its inputs") from None
