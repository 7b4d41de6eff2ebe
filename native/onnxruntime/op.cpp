#include "onnxruntime/op.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "onnxruntime/ask.h"

namespace alibi::ort {
namespace {

constexpr ElementType kTypes[] = {kFloat, kFloat16, kBFloat16};

thread_local int64_t claimed = 0;
thread_local int64_t reading = 0;        // the thread's last one
std::atomic<int64_t> readingsOfAll = 0;  // a kernel may end on another thread than the one that made it

Views shapeViews(Table const& table, ShapeContext const* context) {
    std::vector<char> const found = shapeAttribute<char>(table, context, "layout", kString);
    // It may or may not end with a NUL.
    std::string const layout(found.begin(), std::find(found.begin(), found.end(), '\0'));
    if (layout != kViews) return viewsOf(layout.empty() ? std::string("BHSD") : layout);
    ViewNumbers numbers;
    for (size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = shapeAttribute<int64_t>(table, context, kViewAttributes[i], kInts);
    }
    return viewsOf(numbers);
}

// The extent of an axis of [B, H, S, D] in a tensor, appended to what is known of another one.
void append(Dimensions& to, Dimensions const& tensor, OperandView const& view, size_t axis) {
    auto const place = static_cast<size_t>(view.perm[axis]);
    int64_t const extent = view.extent(axis, tensor.extents.data());
    // A name is that of the whole extent.
    bool const whole = place < 2 || (!view.reshapes() && view.starts[place - 2] == 0 && view.ends[place - 2] == kWhole);
    to.extents.push_back(extent);
    to.names.push_back(whole ? tensor.names[place] : nullptr);
}

// The output has the extents of the query, and is as wide as the value.
void inferOutput(Table const& table, ShapeContext* context) {
    Views const views = shapeViews(table, context);
    Dimensions const query = shapeInput(table, context, 0);
    Dimensions const value = shapeInput(table, context, 2);
    auto const has = [](Dimensions const& tensor, OperandView const& view) {
        return tensor.extents.size() == static_cast<size_t>(view.rank());
    };
    if (!has(query, views.query) || !has(value, views.value)) return;
    Dimensions result;
    for (size_t axis = 0; axis < 3; ++axis) append(result, query, views.query, axis);
    append(result, value, views.value, 3);
    Dimensions output;
    output.type = query.type;
    for (int32_t const axis : views.output.perm) {
        output.extents.push_back(result.extents[static_cast<size_t>(axis)]);
        output.names.push_back(result.names[static_cast<size_t>(axis)]);
    }
    if (views.output.reshapes()) {
        output.extents.resize(3);
        output.names.resize(3);
        output.extents[2] = views.output.width;
        output.names[2] = nullptr;
    }
    setOutput(table, context, std::move(output));
}

Status* inferShape(CustomOp const*, ShapeContext* context) {
    Table const table = rememberedTable();
    return table.guarded(kFail, [&] { inferOutput(table, context); });
}

// What is the same for every provider: names, types, shape inference.
void describe(Op& op, Member const& member, ElementType type, ElementType maskType) {
    op.member = &member;
    op.type = type;
    op.maskType = maskType;
    op.name = [](CustomOp const* given) { return self(given).member->opType.c_str(); };
    op.inputCount = [](CustomOp const* given) { return self(given).member->inputs.size(); };
    op.inputType = [](CustomOp const* given, size_t i) -> int32_t {
        switch (self(given).member->inputs[i]) {
            case Tensor::query:
            case Tensor::key:
            case Tensor::value: return self(given).type;
            case Tensor::mask: return self(given).maskType;
            case Tensor::key_lengths: return kInt64;
            default: return kFloat;
        }
    };
    op.outputCount = [](CustomOp const*) -> size_t { return 1; };
    op.outputType = [](CustomOp const* given, size_t) -> int32_t { return self(given).type; };
    setDefaults(op);
    op.inferShape = inferShape;
}

}  // namespace

void setDefaults(CustomOp& op) {
    op.version = kApiVersion;
    op.inputCharacteristic = [](CustomOp const*, size_t) { return kRequired; };
    op.outputCharacteristic = [](CustomOp const*, size_t) { return kRequired; };
    op.inputMemory = [](CustomOp const*, size_t) { return kDefaultMemory; };
    op.variadicInputs = [](CustomOp const*) { return 1; };
    op.variadicInputsSame = [](CustomOp const*) { return 1; };
    op.variadicOutputs = [](CustomOp const*) { return 1; };
    op.variadicOutputsSame = [](CustomOp const*) { return 1; };
    op.startVersion = [](CustomOp const*) { return 1; };
    op.endVersion = [](CustomOp const*) { return 0x7FFFFFFF; };
}

Type typeOf(int32_t element) {
    switch (element) {
        case kFloat: return Type::float32;
        case kFloat16: return Type::float16;
        case kBFloat16: return Type::bfloat16;
        case kBool: return Type::boolean;
        case kInt64: return Type::int64;
        default: return Type::none;
    }
}

int64_t claimedHere() {
    reading = ++readingsOfAll;
    return claimed;
}

Claim::Claim() : reading_(reading) { ++claimed; }

Claim::~Claim() {
    if (reading_ == reading) --claimed;
}

Given::Given(Table const& table, KernelInfo const* info, bool withKernels) {
    float scale = 0;
    if (table.tried(kAttributeFloat, info, "scale", &scale)) attributes.scale = scale;
    emptyRows_ = text(table, info, "empty_rows", "mean");
    layout_ = text(table, info, "layout", "BHSD");
    rows_ = text(table, info, "rows", "");
    if (withKernels) kernels_ = text(table, info, "kernels", "");
    attributes.emptyRows = emptyRows_;
    attributes.layout = layout_;
    attributes.rows = rows_;
    attributes.kernels = kernels_;
    attributes.windowLeft = number(table, info, "window_left", kUnbounded);
    for (size_t i = 0; attributes.layout == kViews && i < attributes.views.size(); ++i) {
        attributes.views[i] = numbers(table, info, kViewAttributes[i]);
    }
    attributes.windowRight = number(table, info, "window_right", kUnbounded);
}

Input read(Table const& table, Value const* value) {
    Input found;
    TensorInfo* made = nullptr;
    table.call(kGetTensorTypeAndShape, value, &made);
    Info const info(table, made);
    int32_t type = kUndefined;
    size_t rank = 0;
    table.call(kGetTensorElementType, info.get(), &type);
    table.call(kGetDimensionsCount, info.get(), &rank);
    found.described.type = typeOf(type);
    found.described.rank = static_cast<int32_t>(std::min<size_t>(rank, 1000));
    if (rank <= static_cast<size_t>(kMostRank)) {
        table.call(kGetDimensions, info.get(), found.described.extents.data(), rank);
    }
    table.call(kGetTensorMutableData, const_cast<Value*>(value), &found.data);
    return found;
}

Call bind(Table const& table, Node const& node, KernelContext* context) {
    std::vector<Tensor> const& tensors = node.member->inputs;
    std::array<Described, static_cast<size_t>(Tensor::count)> given;
    std::array<void*, static_cast<size_t>(Tensor::count)> data{};
    for (size_t i = 0; i < tensors.size(); ++i) {
        Value const* value = nullptr;
        table.call(kGetInput, static_cast<KernelContext const*>(context), i, &value);
        Input const input = read(table, value);
        given[i] = input.described;
        data[i] = input.data;
    }
    Described const output = node.output(given.data(), tensors.size());
    Call call = node.call(given.data(), tensors.size(), output);
    for (size_t i = 0; i < tensors.size(); ++i) call[tensors[i]].bind(data[i]);
    Value* made = nullptr;
    void* target = nullptr;
    table.call(kGetOutput, context, size_t{0}, static_cast<int64_t const*>(output.extents.data()),
               static_cast<size_t>(output.rank), &made);
    table.call(kGetTensorMutableData, made, &target);
    call[Tensor::output].bind(target);
    return call;
}

Ops makeOps(std::function<std::unique_ptr<Op>(Member const&)> const& make) {
    Ops made;
    auto const add = [&](Member const& member, ElementType type, ElementType maskType) {
        std::unique_ptr<Op> op = make(member);
        describe(*op, member, type, maskType);
        made.push_back(std::move(op));
    };
    for (Member const& member : family()) {
        for (ElementType type : kTypes) {
            if (member.masking != Masking::additive) {
                add(member, type, member.masking == Masking::boolean ? kBool : kUndefined);
                continue;
            }
            for (ElementType maskType : kTypes) add(member, type, maskType);
        }
    }
    return made;
}

}  // namespace alibi::ort
