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

Operand dense(Tensor tensor, Type type, std::array<int64_t, kMostRank> const& extents, size_t rank) {
    Operand operand;
    operand.present = true;
    operand.type = type;
    int64_t stride = 1;
    for (size_t axis = rank; axis-- > 0;) {
        int64_t const extent = extents[axis];
        if (extent < 0) refuse(std::string(nameOf(tensor)) + " has a negative extent");
        operand.shape[axis] = extent;
        operand.strides[axis] = stride;
        if (extent > kMostElements / stride) refuse(std::string(nameOf(tensor)) + " is larger than any memory");
        stride *= std::max<int64_t>(1, extent);
    }
    return operand;
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
                                        "key_positions", "key_bias", "key_lengths"};
    static_assert(std::size(kNames) == static_cast<size_t>(Tensor::count));
    return kNames[static_cast<size_t>(tensor)];
}

char const* nameOf(Type type) {
    constexpr char const* kNames[] = {"(none that a kernel takes)", "float16", "bfloat16", "float32", "bool", "int64"};
    static_assert(std::size(kNames) == static_cast<size_t>(Type::count));
    return kNames[static_cast<size_t>(type)];
}

int32_t rankOf(Tensor tensor) {
    switch (tensor) {
        case Tensor::slopes:
        case Tensor::key_lengths: return 1;
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

void Operand::bind(void const* tensor) {
    // By number: a tensor without elements may have no address, and an offset beyond its end is no pointer.
    auto const address = reinterpret_cast<uintptr_t>(tensor) + static_cast<uint64_t>(offset * elementBytes(type));
    pointer = reinterpret_cast<void const*>(address);
}

void expectRank(Tensor tensor, int32_t found, int32_t wanted) {
    if (found == wanted) return;
    refuse(std::string(nameOf(tensor)) + " has " + std::to_string(found) + " dimensions instead of "
           + std::to_string(wanted));
}

Operand describe(Tensor tensor, Described const& given) {
    expectRank(tensor, given.rank, rankOf(tensor));
    return dense(tensor, given.type, given.extents, static_cast<size_t>(given.rank));
}

Operand describe(Tensor tensor, Described const& given, OperandView const& view) {
    expectRank(tensor, given.rank, view.rank());
    std::array<int64_t, kMostRank> extents = given.extents;
    if (view.reshapes()) {
        if (extents[2] != product(view.cut[0], view.cut[1])) {
            refuse(std::string(nameOf(tensor)) + ": its last dimension is " + std::to_string(extents[2]) + " instead of "
                   + std::to_string(view.cut[0]) + " * " + std::to_string(view.cut[1]));
        }
        extents[2] = view.cut[0];
        extents[3] = view.cut[1];
    }
    Operand const whole = dense(tensor, given.type, extents, 4);
    Operand operand = whole;
    for (size_t side = 0; side < 2; ++side) {
        int64_t const taken = view.taken(side, extents[2 + side]);
        if (taken > 0) operand.offset += view.starts[side] * whole.strides[2 + side];  // within the tensor
        extents[2 + side] = taken;
    }
    for (size_t axis = 0; axis < 4; ++axis) {
        auto const place = static_cast<size_t>(view.perm[axis]);
        operand.shape[axis] = extents[place];
        operand.strides[axis] = whole.strides[place];
    }
    return operand;
}

Operand describeOutput(Described const& given, OutputView const& view, int64_t heads, int64_t width) {
    expectRank(Tensor::output, given.rank, view.rank());
    std::array<int64_t, kMostRank> extents = given.extents;
    if (view.reshapes()) {
        if (extents[2] != view.width || product(heads, width) != view.width) {
            refuse("output: its last dimension is " + std::to_string(extents[2]) + " and was to be "
                   + std::to_string(view.width) + ", for " + std::to_string(heads) + " * " + std::to_string(width));
        }
        extents[2] = heads;
        extents[3] = width;
    }
    Operand const whole = dense(Tensor::output, given.type, extents, 4);
    Operand operand = whole;
    for (size_t place = 0; place < 4; ++place) {
        auto const axis = static_cast<size_t>(view.perm[place]);
        operand.shape[axis] = whole.shape[place];
        operand.strides[axis] = whole.strides[place];
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
        if (mask.type == Type::none || mask.type == Type::int64) refuse("mask is of type " + std::string(nameOf(mask.type)));
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
    Operand const& lengths = call[Tensor::key_lengths];
    if (lengths.present) {
        if (lengths.type != Type::int64) refuse("key_lengths are not int64");
        expectBroadcast(call, Tensor::key_lengths, {batch}, 1);
    }
}

}  // namespace alibi
