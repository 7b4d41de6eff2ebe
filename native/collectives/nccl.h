// The part of NCCL that collectives need, found at run time and declared in our own words.
//
// Everything here has had its form since NCCL 2.10, which brought bfloat16 (CUDA graphs came with 2.9).  No header of NCCL
// is included; tests/runtime/nccl_headers.cpp compares this file with the public one where it is at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace alibi::nccl {

using Result = int32_t;  // ncclResult_t
constexpr Result kSuccess = 0;
constexpr Result kInProgress = 7;

enum DataType : int32_t { kFloat16 = 6, kFloat32 = 7, kBFloat16 = 9 };  // ncclDataType_t
constexpr int32_t kSum = 0;                                             // ncclRedOp_t

constexpr int32_t kOldest = 21000;  // ncclGetVersion: 10,000 major + 100 minor + patch

struct UniqueId {
    char bytes[128];
};

using Handle = void*;  // ncclComm_t

class Library {
public:
    // Opens NCCL by its path or name.  Throws std::runtime_error with one sentence if it cannot be used.
    explicit Library(std::string const& name);

    // Throws std::runtime_error with what NCCL says unless a call succeeded.
    void require(Result result, char const* what, Handle communicator = nullptr) const;

    // NCCL's words for a result, with its last error where it has one.
    std::string words(Result result, Handle communicator) const;

    Result (*version)(int32_t*) = nullptr;
    Result (*uniqueId)(UniqueId*) = nullptr;
    Result (*initRank)(Handle*, int32_t, UniqueId, int32_t) = nullptr;
    Result (*deviceOf)(Handle, int32_t*) = nullptr;
    Result (*asyncError)(Handle, Result*) = nullptr;
    Result (*allReduce)(void const*, void*, size_t, int32_t, int32_t, Handle, void*) = nullptr;
    Result (*allGather)(void const*, void*, size_t, int32_t, Handle, void*) = nullptr;

private:
    char const* (*errorString)(Result) = nullptr;
    char const* (*lastError)(Handle) = nullptr;  // since 2.13
};

}  // namespace alibi::nccl
