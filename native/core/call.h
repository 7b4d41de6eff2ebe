// One execution of a node: its tensors with their layouts.  What a runtime says about them is checked here, once, for
// every front and every kernel.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/bundle.h"
#include "core/view.h"

namespace alibi {

constexpr int32_t kMostRank = 8;
constexpr int64_t kUnbounded = -1;
constexpr int64_t kLargestWindow = (1 << 24) - 1;

// A tensor as a runtime describes it, before anything about it is believed.
struct Described {
    Type type = Type::none;
    int32_t rank = 0;  // beyond kMostRank if the runtime says so; then `extents` mean nothing
    std::array<int64_t, kMostRank> extents{};
};

struct Operand {
    void const* pointer = nullptr;
    Type type = Type::none;
    // In the node's terms: [B, H, S, D]; slopes [H], key_positions [B, S_kv], key_bias [B, H, S_kv], key_lengths [B].
    std::array<int64_t, 4> shape{};
    std::array<int64_t, 4> strides{};  // in elements
    bool present = false;
    int64_t offset = 0;  // elements of its tensor before its first one

    // Points at the first element in a tensor.  A null tensor gives the offset in bytes, which has the same alignment.
    void bind(void const* tensor);

    // The stride of an axis, and 0 where its one element stands for all.
    int64_t broadcast(size_t axis) const { return !present || shape[axis] == 1 ? 0 : strides[axis]; }
};

struct Call {
    std::array<Operand, static_cast<size_t>(Tensor::count)> operands;
    float scale = 1.0F;
    bool emptyMean = true;
    // Keys before row - windowLeft and after row + windowRight are hidden; kUnbounded for no end.
    int64_t windowLeft = kUnbounded;
    int64_t windowRight = kUnbounded;
    bool rowsFirst = false;  // with key lengths: row(i) = i

    Operand& operator[](Tensor tensor) { return operands[static_cast<size_t>(tensor)]; }
    Operand const& operator[](Tensor tensor) const { return operands[static_cast<size_t>(tensor)]; }

    int64_t batch() const { return (*this)[Tensor::query].shape[0]; }
    int64_t heads() const { return (*this)[Tensor::query].shape[1]; }
    int64_t rows() const { return (*this)[Tensor::query].shape[2]; }
    int64_t width() const { return (*this)[Tensor::query].shape[3]; }
    int64_t kvHeads() const { return (*this)[Tensor::value].shape[1]; }
    int64_t keys() const { return (*this)[Tensor::value].shape[2]; }
    int64_t valueWidth() const { return (*this)[Tensor::value].shape[3]; }
};

char const* nameOf(Tensor tensor);
char const* nameOf(Type type);

// How many dimensions an operand has in the node's terms; a tensor that a view is taken of may have another number.
int32_t rankOf(Tensor tensor);

// Throws std::runtime_error unless a tensor has so many dimensions.
void expectRank(Tensor tensor, int32_t found, int32_t wanted);

// A dense tensor; and a view of one.  Throws std::runtime_error if its rank is not the specification's or the view's, or
// an extent is negative or not what the view cuts, or there are more elements than any memory has.
Operand describe(Tensor tensor, Described const& given);
Operand describe(Tensor tensor, Described const& given, OperandView const& view);

// The output in a dense tensor, for so many heads of so many numbers; throws likewise.
Operand describeOutput(Described const& given, OutputView const& view, int64_t heads, int64_t width);

// Throws std::runtime_error with one sentence unless types and extents fit each other as the specification says.
void check(Call const& call);

// Products and sums of sizes that a file may have made up; throws std::runtime_error beyond 62 bits.
int64_t product(int64_t a, int64_t b);
int64_t sum(int64_t a, int64_t b);

}  // namespace alibi
