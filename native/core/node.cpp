#include "core/node.h"

#include <cstring>
#include <stdexcept>

namespace alibi {
namespace {

constexpr char const* kCure = ". Build with `rewrite MODEL --engine`, or attach kernels with --embed-kernels";

[[noreturn]] void refuse(Member const& member, std::string const& what) {
    throw std::runtime_error(std::string(member.opType) + ": " + what);
}

std::string_view text(abi::Field const& field) {
    std::string_view found(static_cast<char const*>(field.data), static_cast<size_t>(field.length));
    return found.substr(0, found.find('\0'));
}

void expectField(Member const& member, abi::Field const& field, int32_t type) {
    if (field.type != type || field.data == nullptr || field.length < 1) {
        refuse(member, std::string("attribute '") + field.name + "' is of another type than the specification says");
    }
}

Operand describe(abi::TensorDesc const& desc, std::array<int32_t, 4> const& axes) {
    Operand operand;
    operand.present = true;
    operand.type = typeOf(desc.type);
    std::array<int64_t, 4> strides{};
    int64_t stride = 1;
    for (int32_t axis = desc.dims.rank - 1; axis >= 0; --axis) {
        strides[static_cast<size_t>(axis)] = stride;
        stride *= desc.dims.d[axis];
    }
    for (int32_t axis = 0; axis < desc.dims.rank; ++axis) {
        auto const place = static_cast<size_t>(desc.dims.rank == 4 ? axes[static_cast<size_t>(axis)] : axis);
        operand.shape[static_cast<size_t>(axis)] = desc.dims.d[place];
        operand.strides[static_cast<size_t>(axis)] = strides[place];
    }
    return operand;
}

constexpr std::array<int32_t, 4> kAsIs = {0, 1, 2, 3};

}  // namespace

std::vector<Member> const& family() {
    static std::vector<Member> const members = {
        {"AlibiAttentionCausal", false, false},
        {"AlibiAttentionCausalBooleanMask", true, false},
        {"AlibiAttentionCausalAdditiveMask", true, false},
        {"AlibiAttentionCausalPositions", false, true},
        {"AlibiAttentionCausalPositionsBooleanMask", true, true},
        {"AlibiAttentionCausalPositionsAdditiveMask", true, true},
        {"AlibiAttentionLinear", false, false},
        {"AlibiAttentionLinearBooleanMask", true, false},
        {"AlibiAttentionLinearAdditiveMask", true, false},
        {"AlibiAttentionLinearPositions", false, true},
        {"AlibiAttentionLinearPositionsBooleanMask", true, true},
        {"AlibiAttentionLinearPositionsAdditiveMask", true, true},
        {"AlibiAttentionSymmetric", false, false},
        {"AlibiAttentionSymmetricBooleanMask", true, false},
        {"AlibiAttentionSymmetricAdditiveMask", true, false},
    };
    return members;
}

Tensor Member::input(int32_t position) const {
    constexpr Tensor kFirst[] = {Tensor::query, Tensor::key, Tensor::value, Tensor::slopes};
    if (position < 4) return kFirst[position];
    return position == 4 && mask ? Tensor::mask : Tensor::key_positions;
}

Type typeOf(int32_t dataType) {
    switch (dataType) {
        case abi::kFloat: return Type::float32;
        case abi::kHalf: return Type::float16;
        case abi::kBFloat16: return Type::bfloat16;
        case abi::kBool: return Type::boolean;
        default: return Type::none;
    }
}

std::shared_ptr<Node const> Node::of(Member const& member, abi::Fields const& fields) {
    auto node = std::make_shared<Node>();
    node->member = &member;
    bool scaled = false;
    for (int32_t i = 0; i < fields.count; ++i) {
        abi::Field const& field = fields.fields[i];
        std::string_view const name = field.name == nullptr ? "" : field.name;
        if (field.data == nullptr || field.length < 1) continue;  // the parser offers absent attributes so
        if (name == "scale") {
            expectField(member, field, abi::kFieldFloat32);
            std::memcpy(&node->scale, field.data, sizeof node->scale);
            scaled = true;
        } else if (name == "empty_rows") {
            expectField(member, field, abi::kFieldChar);
            std::string_view const policy = text(field);
            if (policy != "mean" && policy != "zero") refuse(member, "empty_rows is neither 'mean' nor 'zero'");
            node->emptyMean = policy == "mean";
        } else if (name == "layout") {
            expectField(member, field, abi::kFieldChar);
            node->layout = text(field);
        } else if (name == "kernels") {
            expectField(member, field, abi::kFieldChar);
            std::string_view const bytes(static_cast<char const*>(field.data), static_cast<size_t>(field.length));
            try {
                node->bundle = Bundle::read(bytes);
            } catch (std::exception const& error) {
                refuse(member, error.what() + std::string(kCure));
            }
        }
    }
    if (!scaled) refuse(member, "attribute 'scale' is missing");
    std::array<bool, 4> seen{};
    for (int32_t axis : node->axes()) seen[static_cast<size_t>(axis)] = true;
    bool const permutation = node->layout.size() == 4 && seen[0] && seen[1] && seen[2] && seen[3];
    if (!permutation || node->layout.back() != 'D') {
        refuse(member, "layout '" + node->layout + "' is not an order of B, H, S and, last, D");
    }
    if (!node->bundle) refuse(member, std::string("no kernels are attached to this node") + kCure);
    if (node->bundle->opType != member.opType) {
        refuse(member, "its attached kernels are for " + node->bundle->opType + kCure);
    }
    if ((node->bundle->maskType != Type::none) != member.mask) {
        refuse(member, std::string("its attached kernels disagree about the mask") + kCure);
    }
    return node;
}

std::array<int32_t, 4> Node::axes() const {
    std::array<int32_t, 4> places{};
    constexpr char kAxes[] = {'B', 'H', 'S', 'D'};
    for (size_t i = 0; i < 4; ++i) {
        size_t const found = layout.find(kAxes[i]);
        places[i] = found == std::string::npos || found > 3 ? 0 : static_cast<int32_t>(found);
    }
    return places;
}

Call Node::call(abi::TensorDesc const* in, abi::TensorDesc const* out) const {
    Call made;
    made.scale = scale;
    made.emptyMean = emptyMean;
    for (int32_t i = 0; i < member->inputs(); ++i) {
        Tensor const tensor = member->input(i);
        bool const large = tensor == Tensor::query || tensor == Tensor::key || tensor == Tensor::value;
        made[tensor] = describe(in[i], large ? axes() : kAsIs);
    }
    made[Tensor::output] = describe(out[0], axes());
    return made;
}

}  // namespace alibi
