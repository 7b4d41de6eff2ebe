// What onnxruntime says about attributes and shapes, to kernels and to shape inference.
#pragma once

#include <string>
#include <vector>

#include "onnxruntime/table.h"

namespace alibi::ort {

// Attributes of a node, for its kernel; what is absent is `absent`, or empty.
std::string text(Table const& table, KernelInfo const* info, char const* name, char const* absent);
int64_t number(Table const& table, KernelInfo const* info, char const* name, int64_t absent);
std::vector<int64_t> numbers(Table const& table, KernelInfo const* info, char const* name);

struct Dimensions {
    int32_t type = kUndefined;
    std::vector<int64_t> extents;
    std::vector<char const*> names;
};

class Info {  // OrtTensorTypeAndShapeInfo, which is released
public:
    Info(Table const& table, TensorInfo* info) : table_(table), info_(info) {}
    Info(Info const&) = delete;
    ~Info() { table_.release(kReleaseTensorTypeAndShapeInfo, info_); }
    TensorInfo const* get() const { return info_; }

private:
    Table const& table_;
    TensorInfo* info_;
};

Dimensions dimensions(Table const& table, TensorInfo const* info);

// Of an input, in shape inference.
Dimensions shapeInput(Table const& table, ShapeContext const* context, size_t input);

// Says what is known of the one output; nothing if an extent is neither known nor named.
void setOutput(Table const& table, ShapeContext* context, Dimensions output);

// An attribute in shape inference, as elements of one type; empty if there is none of this type.
template <typename Element>
std::vector<Element> shapeAttribute(Table const& table, ShapeContext const* context, char const* name,
                                    AttributeType type) {
    OpAttribute const* attribute = nullptr;
    if (!table.tried(kShapeGetAttribute, context, name, &attribute)) return {};
    size_t bytes = 0;
    // It fails for want of room and says how much it wants.
    table.tried(kReadAttribute, attribute, type, static_cast<void*>(nullptr), size_t{0}, &bytes);
    std::vector<Element> found(bytes / sizeof(Element));
    if (found.empty() || !table.tried(kReadAttribute, attribute, type, static_cast<void*>(found.data()), bytes, &bytes)) return {};
    return found;
}

// onnxruntime hands its table to a kernel but not to shape inference.
void rememberTable(Api const* api);
Table rememberedTable();

}  // namespace alibi::ort
