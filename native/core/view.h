// Where query, key, value and output lie in the tensors of a graph, as the node says it: fused/layout.py in C++.
//
//     operand = Transpose(Slice(Reshape(tensor, shape), starts, ends, axes = [2, 3]), perm)          [B, H, S, D]
//     output  = Reshape(Transpose(result, perm), shape)
//
// Nothing is copied for it: an operand is an offset and strides.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/bundle.h"

namespace alibi {

constexpr int64_t kWhole = (int64_t{1} << 31) - 1;  // the end of a slice that takes all that is left

// An operand in its tensor.  The axes that are cut and sliced are the third and the fourth one.
struct OperandView {
    std::array<int64_t, 2> cut{};  // what the last axis of a tensor of rank 3 becomes; zeros for one of rank 4
    std::array<int64_t, 2> starts{};
    std::array<int64_t, 2> ends{kWhole, kWhole};
    std::array<int32_t, 4> perm{0, 1, 2, 3};

    bool reshapes() const { return cut[1] != 0; }
    int32_t rank() const { return reshapes() ? 3 : 4; }

    // What a slice along one of its axes, 0 or 1, takes of an extent that is not negative.
    int64_t taken(size_t side, int64_t extent) const;

    // The extent of B, H, S or D in a tensor of the right rank; -1 where that of the tensor is negative, so not known.
    int64_t extent(size_t axis, int64_t const* tensor) const;
};

// The output's tensor: axis i is axis perm[i] of [B, H, S, D]; `width` is that of the merged last axis, or 0.
struct OutputView {
    std::array<int32_t, 4> perm{0, 1, 2, 3};
    int64_t width = 0;

    bool reshapes() const { return width != 0; }
    int32_t rank() const { return reshapes() ? 3 : 4; }
};

struct Views {
    OperandView query;
    OperandView key;
    OperandView value;
    OutputView output;

    // The view of query, key or value.
    OperandView const& operator[](Tensor tensor) const {
        return tensor == Tensor::query ? query : tensor == Tensor::key ? key : value;
    }
};

// The attributes that describe views, in this order.
constexpr std::array<char const*, 14> kViewAttributes = {
    "query_shape", "query_starts", "query_ends",  "query_perm", "key_shape",  "key_starts",  "key_ends",
    "key_perm",    "value_shape",  "value_starts", "value_ends", "value_perm", "output_perm", "output_shape"};
using ViewNumbers = std::array<std::vector<int64_t>, kViewAttributes.size()>;

// Throws std::runtime_error with one sentence if these describe no views; a list without numbers is missing.
Views viewsOf(ViewNumbers const& numbers);

// One operand of these, whose four attributes begin at `first`; throws likewise.
OperandView operandOf(ViewNumbers const& numbers, size_t first);

// All tensors in one order of axes, such as BSHD.  Throws std::runtime_error if it is none, or D is not the last.
Views viewsOf(std::string const& order);

}  // namespace alibi
