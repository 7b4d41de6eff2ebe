"""Each site's subgraph before and after, as small models for Netron (``--extract DIR``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, NodeProto

from ..base.errors import UsageError
from ..base.writing import write_file
from ..graph.index import Scope, index_graph, opset_versions, walk
from ..rewriter.check.cut import Cut, cut, model_of, products_of, weighing
from ..rewriter.recognise.products import is_contraction
from ..rewriter.records.binding import Binding
from ..rewriter.records.site import Site
from .study import Study


@dataclass(frozen=True)
class Pair:
    """One site's subgraph.

    Attributes:
        site: The site's name.
        before: As it was.
        after: As it is written; None for a site that is not rewritten.
    """

    site: str
    before: ModelProto
    after: ModelProto | None


def pairs(study: Study, sites: Sequence[Site]) -> list[Pair]:
    """Sites of a study before and after; the study's model is rewritten on the way."""
    before = {s.name: extract(study, s) for s in sites}
    rewritten = study.rewrite()
    after: dict[str, ModelProto | None] = {}
    if rewritten:
        scopes = {s.path: s for s in _index(study)}
        for site in sites:
            scope = scopes.get(site.scope.path)
            if site.binding is not None and scope is not None:
                part = cut(scope, _outputs(site.binding), _operands(site.binding), frozenset())
                after[site.name] = _finish(part, study, site)
    return [Pair(name, model, after.get(name)) for name, model in before.items()]


def extract(study: Study, site: Site) -> ModelProto:
    """One site's subgraph as the original model has it."""
    if site.binding is not None:
        part = cut(site.scope, _outputs(site.binding), _operands(site.binding), products_of(site))
    else:
        part = _around(site)
    return _finish(part, study, site)


def _finish(part: Cut, study: Study, site: Site) -> ModelProto:
    return model_of(part, study.model, site.interpreter, site.name)


def _index(study: Study) -> list[Scope]:
    model = study.model
    return list(walk(index_graph(model.graph, opset_versions(model), study.base_dir)))


def _outputs(binding: Binding) -> list[str]:
    return [binding.output.tensor, *binding.proof.attention.extra_outputs.values()]


def _operands(binding: Binding) -> frozenset[str]:
    attention = binding.proof.attention
    views = (attention.query, attention.key, attention.value)
    return frozenset((*(v.tensor for v in views), *attention.past.values()))


def _around(site: Site) -> Cut:
    """A refused site, from the nearest products above the anchor down to the product with the values."""
    products = set(products_of(site))
    if site.anchor.op_type != "Softmax":
        return cut(site.scope, [o for o in site.anchor.output if o], frozenset(site.anchor.input[:3]), frozenset())
    output = site.anchor.output[0]
    operands: set[str] = set()
    node = weighing(site)
    if node is not None:
        output = node.output[0]
        operands.update(i for i in node.input if not _reaches(site, i))
    for product in _above(site):
        products.add(id(product))
        operands.update(i for i in product.input if i)
    return cut(site.scope, [output], frozenset(operands), frozenset(products))


def _above(site: Site) -> list[NodeProto]:
    """The nearest products that the softmax input is computed from."""
    found: list[NodeProto] = []
    pending = [site.anchor.input[0]]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        node = site.scope.producer(name)
        if node is None or name in seen or node.op_type == "Shape":
            continue
        seen.add(name)
        if is_contraction(node):
            found.append(node)
        else:
            pending.extend(i for i in node.input if i)
    return found


def _reaches(site: Site, tensor: str) -> bool:
    """Whether a tensor is computed from the softmax, by the few operators that may stand between."""
    pending = [tensor]
    for _ in range(64):
        if not pending:
            return False
        name = pending.pop()
        if name in site.anchor.output:
            return True
        node = site.scope.producer(name)
        if node is not None and not is_contraction(node):
            pending.extend(i for i in node.input if i)
    return False


def write_pairs(found: Sequence[Pair], folder: Path, model: Path | None) -> list[Path]:
    """Write every pair as ``NN-site.before.onnx`` and ``NN-site.after.onnx``.

    Raises:
        UsageError: The folder or a file cannot be written, or a file is the model itself.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder '{folder}' cannot be made: {error.strerror}. Choose another --extract."
        ) from error
    written = []
    for number, pair in enumerate(found, start=1):
        for when, part in (("before", pair.before), ("after", pair.after)):
            if part is None:
                continue
            target = folder / f"{number:02d}-{_file_name(pair.site)}.{when}.onnx"
            if model is not None and target.exists() and target.samefile(model):
                raise UsageError(f"'{target}' is the model itself. Choose another --extract.")
            write_file(target, part.SerializeToString(deterministic=True), "--extract", model)
            written.append(target)
    return written


def _file_name(site: str) -> str:
    """A site's name as a part of a file name.  A name from the file must not lead elsewhere."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", site).strip("_")[:60] or "site"
