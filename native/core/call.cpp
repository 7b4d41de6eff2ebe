#include "core/call.h"

#include <algorithm>
#include <stdexcept>

namespace alibi {
namespace {

constexpr int64_t kMostSize = int64_t{1} << 62;
constexpr int64_t kMostElements = int64_t{1} << 48;  // more than any address space holds

[[noreturn]] void refuse(std::string const& what) { throw std::runtime_error(what); }

std::string text(int64_t const* extents, size_t rank) {
    std::string out = "[";
    for (size_t i = 0; i < rank; ++i) out += (i ? ", " : "") + std::to_string(extents[i]);
    return out + "]";
}

std::string text(Operand const& operand, size_t rank) { return text(operand.shape.data(), rank); }

void expect(Call const& call, Tensor tensor, Type type, std::array<int64_t, 4> const& shape) {
    Operand const& operand = call[tensor];
    auto const rank = static_cast<size_t>(rankOf(tensor));
    if (!operand.present) refuse(std::string(nameOf(tensor)) + " is missing");
    if (operand.type != type) {
        refuse(std::string(nameOf(tensor)) + " is of type " + nameOf(operand.type) + " instead of " + nameOf(type));
    }
    if (!std::equal(shape.begin(), shape.begin() + static_cast<long>(rank), operand.shape.begin())) {
        refuse(std::string(nameOf(tensor)) + " is " + text(operand, rank) + " instead of " + text(shape.data(), rank));
    }
    if (rank == 4 && shape[3] > 1 && operand.strides[3] != 1) {
        refuse(std::string(nameOf(tensor)) + ": its last dimension is not dense");
    }
}

// Each extent is 1 or that of `full`; `exact` is the first axis that may not be 1 instead.
void expectBroadcast(Call const& call, Tensor tensor, std::array<int64_t, 4> const& full, size_t exact) {
    Operand const& operand = call[tensor];
    auto const rank = static_cast<size_t>(rankOf(tensor));
    for (size_t i = 0; i < rank; ++i) {
        if (operand.shape[i] == full[i] || (i < exact && operand.shape[i] == 1)) continue;
        refuse(std::string(nameOf(tensor)) + " is " + text(operand, rank) + ", which does not fit "
               + text(full.data(), rank));
    }
    if (exact < rank && operand.shape[rank - 1] > 1 && operand.strides[rank - 1] != 1) {
        refuse(std::string(nameOf(tensor)) + ": its last dimension is not dense");
    }
}

}  // namespace

char const* nameOf(Tensor tensor) {
    constexpr char const* kNames[] = {"query", "key", "value", "output", "slopes", "mask",
                                        "key_positions", "key_bias"};
    static_assert(std::size(kNames) == static_cast<size_t>(Tensor::count));
    return kNames[static_cast<size_t>(tensor)];
}

char const* nameOf(Type type) {
    constexpr char const* kNames[] = {"(none that a kernel takes)", "float16", "bfloat16", "float32", "bool"};
    static_assert(std::size(kNames) == static_cast<size_t>(Type::count));
    return kNames[static_cast<size_t>(type)];
}

int32_t rankOf(Tensor tensor) {
    switch (tensor) {
        case Tensor::slopes: return 1;
        case Tensor::key_positions: return 2;
        case Tensor::key_bias: return 3;
        default: return 4;
    }
}

int64_t product(int64_t a, int64_t b) {
    int64_t found = 0;
    if (__builtin_mul_overflow(a, b, &found) || found > kMostSize || found < -kMostSize) {
        refuse("a size is beyond 62 bits");
    }
    return found;
}

int64_t sum(int64_t a, int64_t b) {
    int64_t found = 0;
    if (__builtin_add_overflow(a, b, &found) || found > kMostSize || found < -kMostSize) {
        refuse("a size is beyond 62 bits");
    }
    return found;
}

Operand describe(Tensor tensor, Described const& given, std::array<int32_t, 4> const& places) {
    int32_t const rank = rankOf(tensor);
    if (given.rank != rank) {
        refuse(std::string(nameOf(tensor)) + " has " + std::to_string(given.rank) + " dimensions instead of "
               + std::to_string(rank));
    }
    Operand operand;
    operand.present = true;
    operand.type = given.type;
    std::array<int64_t, 4> strides{};
    int64_t stride = 1;
    for (int32_t axis = rank - 1; axis >= 0; --axis) {
        int64_t const extent = given.extents[static_cast<size_t>(axis)];
        if (extent < 0) refuse(std::string(nameOf(tensor)) + " has a negative extent");
        strides[static_cast<size_t>(axis)] = stride;
        if (extent > kMostElements / stride) refuse(std::string(nameOf(tensor)) + " is larger than any memory");
        stride *= std::max<int64_t>(1, extent);
    }
    for (size_t axis = 0; axis < static_cast<size_t>(rank); ++axis) {
        auto const place = rank == 4 ? static_cast<size_t>(places[axis]) : axis;
        operand.shape[axis] = given.extents[place];
        operand.strides[axis] = strides[place];
    }
    return operand;
}

void check(Call const& call) {
    Type const type = call[Tensor::query].type;
    if (type != Type::float16 && type != Type::bfloat16 && type != Type::float32) {
        refuse("query is of type " + std::string(nameOf(type)) + " instead of float32, float16 or bfloat16");
    }
    auto const batch = call.batch();
    auto const heads = call.heads();
    auto const kvHeads = call.kvHeads();
    for (Operand const& operand : call.operands) {
        for (int64_t extent : operand.shape) {
            if (extent < 0 || extent > kMostElements) refuse("an extent is negative or larger than any memory");
        }
    }
    expect(call, Tensor::query, type, call[Tensor::query].shape);
    expect(call, Tensor::key, type, {batch, kvHeads, call.keys(), call.width()});
    expect(call, Tensor::value, type, {batch, kvHeads, call.keys(), call.valueWidth()});
    expect(call, Tensor::output, type, {batch, heads, call.rows(), call.valueWidth()});
    expect(call, Tensor::slopes, Type::float32, {heads});
    if (kvHeads == 0 ? heads != 0 : heads % kvHeads != 0) {
        refuse(std::to_string(heads) + " heads over " + std::to_string(kvHeads) + " key heads");
    }
    Operand const& mask = call[Tensor::mask];
    if (mask.present) {
        if (mask.type == Type::none) refuse("mask is of type " + std::string(nameOf(mask.type)));
        expectBroadcast(call, Tensor::mask, {batch, heads, call.rows(), call.keys()}, 4);
    }
    Operand const& positions = call[Tensor::key_positions];
    if (positions.present) {
        if (positions.type != Type::float32) refuse("key_positions are not float32");
        expectBroadcast(call, Tensor::key_positions, {batch, call.keys()}, 1);
    }
    Operand const& bias = call[Tensor::key_bias];
    if (bias.present) {
        if (bias.type != Type::float32) refuse("key_bias is not float32");
        expectBroadcast(call, Tensor::key_bias, {batch, heads, call.keys()}, 2);
    }
}

}  // namespace alibi
