// Appending new keys and values to buffers of fixed capacity: fused/append.py in C++.
#pragma once

#include <array>
#include <cstdint>

#include "core/call.h"
#include "core/view.h"

namespace alibi {

// Keys or values of one call.  Buffers are dense [B, H_kv, C, D]; strides count bytes.
struct Appended {
    char const* past = nullptr;
    char* present = nullptr;
    char const* fresh = nullptr;            // element [0, 0, 0, 0] of the new ones
    std::array<int64_t, 3> strides{};       // of batch, head and row of the new ones
    int64_t rowBytes = 0;                   // D numbers
};

struct AppendCall {
    int64_t batch = 0;
    int64_t heads = 0;
    int64_t capacity = 0;
    int64_t rows = 0;  // new ones
    std::array<Appended, 2> both;
    int64_t const* lengths = nullptr;  // in the memory of the device
    int64_t lengthStride = 0;          // 0 where one length is for all

    int64_t bufferBytes(size_t which) const { return batch * heads * capacity * both[which].rowBytes; }
};

// Where new keys and values lie in their tensors.
struct AppendNode {
    OperandView key;
    OperandView value;

    // Throws std::runtime_error with one sentence if the attributes describe no views.
    static AppendNode of(std::string const& layout, ViewNumbers const& numbers);

    // The call on past_key, past_value, key, value and key_lengths with their addresses, the outputs' to be filled in.
    // Throws std::runtime_error with one sentence unless types and extents fit each other.
    AppendCall call(std::array<Described, 5> const& given, std::array<void*, 5> const& data) const;
};

constexpr char const* kAppendOp = "AlibiCacheAppend";

}  // namespace alibi
