// Compares native/collectives/nccl.h with NCCL's public header, when it is compiled.
#include <nccl.h>

#include <type_traits>

#include "collectives/nccl.h"

using alibi::nccl::Library;

// The same arguments by size, and pointers where pointers are.
template <typename A, typename B>
constexpr bool kAlike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

template <typename Result, typename... Theirs, typename... Ours>
constexpr bool same(Result (*)(Theirs...), int32_t (*)(Ours...)) {
    static_assert(sizeof...(Theirs) == sizeof...(Ours));
    return sizeof(Result) == sizeof(int32_t) && (kAlike<Theirs, Ours> && ...);
}

#define SAME(theirs, ours) static_assert(same(decltype(&theirs){nullptr}, decltype(Library::ours){nullptr}), #theirs)

SAME(ncclGetVersion, version);
SAME(ncclGetUniqueId, uniqueId);
SAME(ncclCommInitRank, initRank);
SAME(ncclCommCuDevice, deviceOf);
SAME(ncclCommGetAsyncError, asyncError);
SAME(ncclAllReduce, allReduce);
SAME(ncclAllGather, allGather);

static_assert(sizeof(ncclUniqueId) == sizeof(alibi::nccl::UniqueId));
static_assert(ncclSuccess == static_cast<int>(alibi::nccl::kSuccess));
static_assert(ncclInProgress == static_cast<int>(alibi::nccl::kInProgress));
static_assert(ncclSum == static_cast<int>(alibi::nccl::kSum));
static_assert(ncclFloat16 == static_cast<int>(alibi::nccl::kFloat16));
static_assert(ncclFloat32 == static_cast<int>(alibi::nccl::kFloat32));
static_assert(ncclBfloat16 == static_cast<int>(alibi::nccl::kBFloat16));
static_assert(NCCL_VERSION(2, 10, 0) == alibi::nccl::kOldest);
