#include "tensorrt/fields.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace alibi {
namespace {

std::string_view bytesOf(abi::Field const& field) {
    return {static_cast<char const*>(field.data), static_cast<size_t>(field.length)};
}

std::string_view textOf(abi::Field const& field) { return bytesOf(field).substr(0, bytesOf(field).find('\0')); }

void expectType(Member const& member, abi::Field const& field, int32_t type) {
    if (field.type == type) return;
    throw std::runtime_error(member.opType + ": attribute '" + field.name
                             + "' is of another type than the specification says");
}

// An int32 each; nothing is believed of how many they are.
std::vector<int64_t> numbersOf(abi::Field const& field) {
    std::vector<int64_t> found;
    for (int32_t i = 0; i < field.length; ++i) {
        int32_t number = 0;
        std::memcpy(&number, static_cast<char const*>(field.data) + static_cast<size_t>(i) * sizeof number, sizeof number);
        found.push_back(number);
    }
    return found;
}

}  // namespace

Type typeOf(int32_t dataType) {
    switch (dataType) {
        case abi::kFloat: return Type::float32;
        case abi::kHalf: return Type::float16;
        case abi::kBFloat16: return Type::bfloat16;
        case abi::kBool: return Type::boolean;
        case abi::kInt64: return Type::int64;
        default: return Type::none;
    }
}

Attributes attributesOf(Member const& member, abi::Fields const& fields) {
    Attributes found;
    for (int32_t i = 0; i < fields.count; ++i) {
        abi::Field const& field = fields.fields[i];
        std::string_view const name = field.name == nullptr ? "" : field.name;
        if (field.data == nullptr || field.length < 1) continue;  // the parser offers absent attributes so
        if (name == "scale") {
            expectType(member, field, abi::kFieldFloat32);
            float scale = 0;
            std::memcpy(&scale, field.data, sizeof scale);
            found.scale = scale;
        } else if (name == "empty_rows") {
            expectType(member, field, abi::kFieldChar);
            found.emptyRows = textOf(field);
        } else if (name == "layout") {
            expectType(member, field, abi::kFieldChar);
            found.layout = textOf(field);
        } else if (name == "rows") {
            expectType(member, field, abi::kFieldChar);
            found.rows = textOf(field);
        } else if (name == "window_left" || name == "window_right") {
            expectType(member, field, abi::kFieldInt32);
            int32_t keys = 0;
            std::memcpy(&keys, field.data, sizeof keys);
            (name == "window_left" ? found.windowLeft : found.windowRight) = keys;
        } else if (name == "kernels") {
            expectType(member, field, abi::kFieldChar);
            found.kernels = bytesOf(field);
        } else if (auto const* const view = std::find(kViewAttributes.begin(), kViewAttributes.end(), name);
                   view != kViewAttributes.end()) {
            expectType(member, field, abi::kFieldInt32);
            found.views[static_cast<size_t>(view - kViewAttributes.begin())] = numbersOf(field);
        }
    }
    return found;
}

Described describedAs(abi::TensorDesc const& desc) {
    Described found;
    found.type = typeOf(desc.type);
    found.rank = desc.dims.rank;
    auto const known = std::clamp<int32_t>(desc.dims.rank, 0, kMostRank);
    std::copy_n(desc.dims.d, known, found.extents.begin());
    return found;
}

}  // namespace alibi
