"""The JSON report as types: what ``result.to_json()`` and ``--json`` hold, for type checkers and for the schema.

``docs/report.schema.json`` is generated from these records (``python docs/schema.py``), and tests hold real reports
against them, key by key.  Nothing here runs: the report itself is assembled where its facts are.
"""

from __future__ import annotations

from typing import Literal, TypedDict

Number = float | str
"""A measured number; infinities and no number are the strings ``inf`` and ``nan``, since JSON has none."""


class ToolRecord(TypedDict):
    """What wrote the report."""

    name: str
    version: str


class InputRecord(TypedDict):
    """The original."""

    path: str | None
    sha256: str | None
    ir_version: int
    opset: dict[str, int]
    producer: str


class OutputRecord(TypedDict):
    """What was written; both are null if nothing was."""

    path: str | None
    sha256: str | None


class CensusRecord(TypedDict):
    """How many attentions there are."""

    sites: int
    biased: int
    proven: int
    rewritten: int
    refused: int


class AnchorRecord(TypedDict):
    """The softmax or the attention operator."""

    node: str
    op_type: str


class RowsWithoutKeysRecord(TypedDict):
    """What a row that sees no key yields."""

    original: str
    fused: str
    agree: bool
    code: str | None


class MasksRecord(TypedDict):
    """Which masks the fused node gets."""

    boolean: bool
    additive: bool


class WindowRecord(TypedDict):
    """Keys before and after its own that a row sees; -1 for no bound."""

    left: int
    right: int


class OperandsRecord(TypedDict):
    """Tensors by their role."""

    query: str
    key: str
    value: str
    scores: str
    output: str


class _ProofRecord(TypedDict):
    form: str
    causal: bool
    scale: float
    slopes: list[float] | None
    slopes_at_run_time: str | None
    key_positions: str | None
    key_bias: bool
    rounding: Literal["kept", "left out"] | None
    rows_without_keys: RowsWithoutKeysRecord
    mask: MasksRecord
    window: WindowRecord | None
    bindings: OperandsRecord
    extents: dict[str, str]
    assumptions: list[str]
    steps: list[str]
    self_check: int
    bias_bytes: str


class ProofRecord(_ProofRecord, total=False):
    """What is proven of a site; ``parameters`` only where its form has any."""

    parameters: dict[str, float]


class AbsorbedRecord(TypedDict):
    """What a fused node does itself: tensors that it reads operands from, copying nodes that are gone, bytes spared."""

    tensors: dict[str, str]
    copies: list[str]
    length: int
    bytes: int | None


class FusedNodeRecord(TypedDict):
    """The node that was written."""

    op_type: str
    attributes: dict[str, str | int | float | list[int]]


class RefusalRecord(TypedDict):
    """Why a site is left as it is."""

    code: str
    title: str
    stage: str
    node: str
    tensor: str
    detail: str
    meaning: str
    remedy: str


class PlaceRecord(TypedDict):
    """Where a claim rests."""

    kind: Literal["node", "constant", "input"]
    node: str
    op_type: str
    tensor: str


class StepRecord(TypedDict):
    """One claim of a proof."""

    about: str
    claim: str
    rests_on: list[PlaceRecord]


class CounterexampleRecord(TypedDict):
    """An element that slope times distance does not explain, and the row that it lies in."""

    index: list[int]
    value: float
    expected: float
    slope: float
    keys: list[int]
    added: list[float | None]
    closest: list[float]


class StopRecord(TypedDict):
    """How far the analysis came."""

    stage: str
    number: int
    stages: int
    doing: str
    place: PlaceRecord
    tensor: str
    counterexample: CounterexampleRecord | None


class ExplanationRecord(TypedDict):
    """One site explained, with ``--explain`` or ``--report``."""

    formula: list[str]
    steps: list[StepRecord]
    slopes_are: str | None
    stop: StopRecord | None
    same_as: str | None


class _SiteRecord(TypedDict):
    id: str
    scope: str
    anchor: AnchorRecord
    verdict: Literal["rewritten", "proven", "refused"]


class SiteRecord(_SiteRecord, total=False):
    """One attention: a proof or a refusal, and what came of it."""

    proof: ProofRecord
    refusal: RefusalRecord
    still_materialised: str | None
    absorbed: AbsorbedRecord | None
    node: FusedNodeRecord
    explanation: ExplanationRecord


class BufferRecord(TypedDict):
    """The past of keys or values: an input and the output that may be the same memory."""

    past: str
    present: str


class CacheRecord(TypedDict):
    """Caches that are held in place."""

    key_lengths: str
    capacity: int | None
    removed_inputs: list[str]
    buffers: list[BufferRecord]


class EditsRecord(TypedDict):
    """Nodes and constants added and removed."""

    nodes_added: int
    nodes_removed: int
    initializers_added: int
    initializers_removed: int


class OutputErrorRecord(TypedDict):
    """One output on one input set."""

    output: str
    max_abs: Number
    max_rel: Number
    limit: Number
    compared: int
    left_out: int
    nan_rows: int
    scope: str
    place: list[int]
    passed: bool


class InputSetRecord(TypedDict):
    """One comparison."""

    name: str
    shapes: dict[str, list[int]]
    outputs: list[OutputErrorRecord]
    error: str | None
    passed: bool


class MutantRecord(TypedDict):
    """One rewrite that is wrong on purpose."""

    kind: str
    site: str
    verdict: Literal["killed", "survived", "equivalent", "not_applicable"]
    by: str | None
    factor: Number
    reason: str


class PowerRecord(TypedDict):
    """Whether the inputs tell wrong rewrites from right ones."""

    killed: int
    mutants: int
    weak: bool
    summary: str
    details: list[MutantRecord]


class KernelComparisonRecord(TypedDict):
    """The rewritten model on our kernels."""

    where: Literal["cpu", "cuda"]
    nodes: int
    passed: bool
    summary: str
    skipped_reason: str | None
    sets: list[InputSetRecord]
    power: PowerRecord | None
    own_type: dict[str, Number] | None


class ComparedSiteRecord(TypedDict):
    """One attention that was compared alone."""

    site: str
    status: Literal["passed", "failed", "skipped"]
    same_as: str | None
    computed_in: Literal["float64", "float32"]
    skipped_reason: str | None
    notes: list[str]


class PrecisionRecord(TypedDict):
    """16-bit models, each against the float32 original."""

    types: list[str]
    original: dict[str, Number]
    rewritten: dict[str, Number]
    notes: list[str]


class VerificationRecord(TypedDict):
    """Original against rewritten."""

    status: Literal["passed", "failed", "skipped"]
    method: Literal["whole", "sites"]
    by_sites: str | None
    sites: list[ComparedSiteRecord]
    skipped_reason: str | None
    summary: str
    tolerance: str
    out_of_scope: list[str]
    notes: list[str]
    sets: list[InputSetRecord]
    power: PowerRecord | None
    kernels: list[KernelComparisonRecord]
    precision: PrecisionRecord | None


class SlopesRecord(TypedDict):
    """Slopes beside the standard ones."""

    own: list[float]
    standard: list[float]
    verdict: str


class BiasRowRecord(TypedDict):
    """One row of a bias, and what slope times distance leaves of it."""

    row: int
    own: int
    keys: list[int]
    heads: list[int]
    values: list[list[float | None]]
    residual: list[list[float | None]]
    largest: float
    shape: list[int]


class MemoryRecord(TypedDict):
    """Bytes of a bias over the sequence length."""

    lengths: list[int]
    tensor: str
    shape: list[str]
    item: int
    before: list[int | None]
    after: list[int | None]
    stored: int
    left: str | None


class GraphNodeRecord(TypedDict):
    """A node of a drawing."""

    op: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, str]


class GraphRecord(TypedDict):
    """A drawing."""

    nodes: list[GraphNodeRecord]
    inputs: list[str]
    outputs: list[str]
    shapes: dict[str, str]
    constants: dict[str, str]


class PicturesRecord(TypedDict):
    """What the page shows of one site."""

    site: str
    slopes: SlopesRecord | None
    bias: BiasRowRecord | None
    memory: MemoryRecord | None
    before: GraphRecord | None
    after: GraphRecord | None


class ShapesRecord(TypedDict):
    """The range of shapes of an input."""

    min: list[int]
    opt: list[int]
    max: list[int]


class PlanRecord(TypedDict):
    """The engine's file."""

    path: str
    bytes: int
    sha256: str


class PluginLayersRecord(TypedDict):
    """Fused nodes, and the plugin layers that were found."""

    expected: int
    found: int


class TimingRecord(TypedDict):
    """A strategy that was run."""

    name: str
    milliseconds: float


class EngineRecord(TypedDict, total=False):
    """What was built; ``error`` alone if that failed."""

    backend: str
    version: str
    targets: list[str]
    profiles: list[dict[str, ShapesRecord]]
    plan: PlanRecord
    plugin_layers: PluginLayersRecord
    strategy: str
    timings: list[TimingRecord]
    embedded: list[str]
    load: dict[str, str]
    not_executed: list[str]
    accumulation: str | None
    caution: str | None
    build_seconds: float
    build_peak_bytes: int
    error: str


class RankFileRecord(TypedDict):
    """What one rank loads."""

    rank: int
    model: str
    data: str
    sha256: str
    weight_bytes: int
    cut_bytes: int


class RankHeadsRecord(TypedDict):
    """The heads of one attention that a rank has: the first one, and the one behind the last."""

    heads: list[int]
    key_heads: list[int]


class _CutAttentionRecord(TypedDict):
    node: str
    heads: int
    key_heads: int


class CutAttentionRecord(_CutAttentionRecord, total=False):
    """An attention: ``ranks`` where it is cut, ``whole`` and why where it is not."""

    key_heads_replicated: bool
    ranks: list[RankHeadsRecord]
    whole: str


class CutFeaturesRecord(TypedDict):
    """A product whose features are cut, and over how many it sums."""

    node: str
    features: int


class CutTensorRecord(TypedDict):
    """Which indices of an input's or output's axis each rank has, below the period that the axis repeats."""

    axis: int
    period: int
    ranks: list[list[list[int]]]


class CollectiveRecord(TypedDict):
    """A sum over the ranks or a gathering from them, and how many numbers it has for a token."""

    kind: Literal["all_reduce", "all_gather"]
    node: str
    features: int | None
    type: str


class ManifestRecord(TypedDict):
    """``manifest.json`` beside the ranks' models."""

    schema_version: Literal[1]
    tool: ToolRecord
    ranks: int
    runtime: str
    files: list[RankFileRecord]
    attentions: list[CutAttentionRecord]
    features: list[CutFeaturesRecord]
    vocabulary: list[str]
    whole: dict[str, str]
    inputs: dict[str, CutTensorRecord]
    outputs: dict[str, CutTensorRecord]
    collectives: list[CollectiveRecord]
    collectives_per_layer: dict[str, float]


class TensorParallelRecord(TypedDict):
    """What became of ``--tensor-parallel``."""

    folder: str
    written: bool
    manifest: ManifestRecord
    verification: VerificationRecord | None


class _Report(TypedDict):
    schema_version: Literal[1]
    tool: ToolRecord
    versions: dict[str, str | None]
    input: InputRecord
    output: OutputRecord
    exit_code: int
    census: CensusRecord
    attention_found: str | None
    sites: list[SiteRecord]
    cache: CacheRecord | None
    edits: EditsRecord
    verification: VerificationRecord | None
    notes: list[str]
    timings: dict[str, float]


class Report(_Report, total=False):
    """The report of a run; ``pictures``, ``engine`` and ``tensor_parallel`` where they are asked for."""

    pictures: PicturesRecord | None
    engine: EngineRecord
    tensor_parallel: TensorParallelRecord
