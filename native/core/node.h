// What a node says: its member of the family, its attributes, the layout of its tensors.  Every front reads them from
// its runtime into `Attributes`; what is checked and what is refused is the same for all.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/call.h"

namespace alibi {

enum class Form : uint8_t { linear, symmetric };
enum class Masking : uint8_t { none, boolean, additive };

// A member of the family AlibiAttention*: everything that its op_type says.
struct Member {
    std::string opType;
    Form form = Form::linear;
    bool causal = false;
    bool positions = false;
    bool keyBias = false;
    bool window = false;
    bool lengths = false;
    Masking masking = Masking::none;
    std::vector<Tensor> inputs;  // in order
};

// The closed family, as fused/family.py derives it; a test compares the two.
std::vector<Member> const& family();

// The attributes of a node as its runtime hands them over; what is absent is empty.
struct Attributes {
    std::optional<float> scale;
    std::string_view emptyRows = "mean";
    std::string_view layout = "BHSD";
    std::string_view kernels;
    int64_t windowLeft = kUnbounded;
    int64_t windowRight = kUnbounded;
    std::string_view rows;  // of a member with key lengths
    ViewNumbers views;      // of a node whose layout is kViews
};

// The layout of a node that describes by attributes how its tensors lie in those of the graph.
constexpr char const* kViews = "views";

// A node's attributes, validated.  Immutable; shared by everybody who runs it.
struct Node {
    Member const* member = nullptr;
    float scale = 1.0F;
    bool emptyMean = true;
    int64_t windowLeft = kUnbounded;
    int64_t windowRight = kUnbounded;
    bool rowsFirst = false;  // with key lengths: row(i) = i
    std::string layout = "BHSD";
    Views views;
    ViewNumbers viewNumbers;  // as they were given; empty unless the layout is kViews
    std::shared_ptr<Bundle const> bundle;  // null if no kernels are attached

    // Throws std::runtime_error with one sentence that says what is wrong and what to do.
    static std::shared_ptr<Node const> of(Member const& member, Attributes const& attributes);

    // How many dimensions the tensor has that an operand lies in.
    int32_t rankOf(Tensor tensor) const;

    // The operands of a call, without addresses.  Throws std::runtime_error with one sentence if the number of inputs,
    // a rank, a type or an extent is not what the specification says.
    Call call(Described const* inputs, size_t count, Described const& output) const;

    // The output's tensor for these inputs; throws as `call` does if their ranks, or the extents of query or value, do
    // not fit.
    Described output(Described const* inputs, size_t count) const;
};

// Throws std::runtime_error with the cure if the node has no kernels attached.
void requireKernels(Node const& node);

}  // namespace alibi
