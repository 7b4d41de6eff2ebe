// What a node says: its member of the family, its attributes, the layout of its tensors.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tensorrt/abi.h"
#include "core/plan.h"

namespace alibi {

// A member of the family AlibiAttention*: which inputs it has, by position.
struct Member {
    char const* opType;
    bool mask;
    bool positions;

    int32_t inputs() const { return 4 + (mask ? 1 : 0) + (positions ? 1 : 0); }
    Tensor input(int32_t position) const;
};

std::vector<Member> const& family();

// The attributes of a node, validated.  Immutable; shared by all clones of a plugin.
struct Node {
    Member const* member = nullptr;
    float scale = 1.0F;
    bool emptyMean = true;
    std::string layout = "BHSD";
    std::shared_ptr<Bundle const> bundle;

    // Throws std::runtime_error with one sentence that says what is wrong and what to do.
    static std::shared_ptr<Node const> of(Member const& member, abi::Fields const& fields);

    // Where the axes B, H, S, D of a tensor are in memory order.
    std::array<int32_t, 4> axes() const;

    // The operands of a call, without addresses.
    Call call(abi::TensorDesc const* in, abi::TensorDesc const* out) const;
};

Type typeOf(int32_t dataType);

}  // namespace alibi
