#include "onnxruntime/ask.h"

namespace alibi::ort {
namespace {

Api const* remembered = nullptr;

}  // namespace

std::string text(Table const& table, KernelInfo const* info, char const* name, char const* absent) {
    size_t size = 0;
    if (!table.tried(kAttributeString, info, name, static_cast<char*>(nullptr), &size) || size == 0) return absent;
    std::string found(size, '\0');
    table.call(kAttributeString, info, name, found.data(), &size);
    found.resize(size > 0 ? size - 1 : 0);  // without the NUL
    return found;
}

int64_t number(Table const& table, KernelInfo const* info, char const* name, int64_t absent) {
    int64_t found = absent;
    return table.tried(kAttributeInt64, info, name, &found) ? found : absent;
}

std::vector<int64_t> numbers(Table const& table, KernelInfo const* info, char const* name) {
    size_t size = 0;
    if (!table.tried(kAttributeInts, info, name, static_cast<int64_t*>(nullptr), &size)) return {};
    std::vector<int64_t> found(size);
    if (size > 0) table.call(kAttributeInts, info, name, found.data(), &size);
    return found;
}

Dimensions dimensions(Table const& table, TensorInfo const* info) {
    Dimensions found;
    size_t rank = 0;
    table.call(kGetTensorElementType, info, &found.type);
    table.call(kGetDimensionsCount, info, &rank);
    found.extents.resize(rank);
    found.names.resize(rank);
    table.call(kGetDimensions, info, found.extents.data(), rank);
    table.call(kGetSymbolicDimensions, info, found.names.data(), rank);
    return found;
}

Dimensions shapeInput(Table const& table, ShapeContext const* context, size_t input) {
    // It belongs to the context: releasing it would release it twice.
    TensorInfo* info = nullptr;
    table.call(kShapeGetInput, context, input, &info);
    return dimensions(table, info);
}

void setOutput(Table const& table, ShapeContext* context, Dimensions output) {
    for (size_t axis = 0; axis < output.extents.size(); ++axis) {
        // onnxruntime takes an extent without a name for the number -1, and computes with it.
        bool const named = output.names[axis] != nullptr && output.names[axis][0] != '\0';
        if (output.extents[axis] < 0 && !named) return;
        if (output.names[axis] == nullptr) output.names[axis] = "";
    }
    TensorInfo* made = nullptr;
    table.call(kCreateTensorTypeAndShapeInfo, &made);
    Info const owned(table, made);
    table.call(kSetTensorElementType, made, output.type);
    table.call(kSetDimensions, made, static_cast<int64_t const*>(output.extents.data()), output.extents.size());
    table.call(kSetSymbolicDimensions, made, output.names.data(), output.names.size());
    table.call(kShapeSetOutput, static_cast<ShapeContext const*>(context), size_t{0}, owned.get());
}

void rememberTable(Api const* api) { remembered = api; }
Table rememberedTable() { return Table(remembered); }

}  // namespace alibi::ort
