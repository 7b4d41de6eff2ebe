// This process's place among the ranks: one communicator of NCCL, on one GPU, made once and kept until the process ends.
//
// It is never destroyed, on purpose.  NCCL waits in ncclCommDestroy and ncclCommAbort for CUDA graphs that hold collectives
// and, in some versions, for ranks that may be gone.  After an abort a run would also come back with sums of some of the
// ranks.  A process whose peers are lost is ended instead (runtime/collectives/watch.py), which frees its GPU as well.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "collectives/nccl.h"

namespace alibi::collectives {

class Communicator {
public:
    // Waits for all ranks; whoever calls it bounds the time.  Throws std::runtime_error with one sentence.
    Communicator(std::string const& library, nccl::UniqueId const& id, int32_t rank, int32_t size, int32_t device);

    // Enqueue on a stream, of `count` elements of this rank.  Allocate nothing, do not synchronise, may be captured.
    void allReduce(void const* from, void* to, size_t count, nccl::DataType type, void* stream);
    void allGather(void const* from, void* to, size_t count, nccl::DataType type, void* stream);

    // Whatever is asked of it from now on is refused.
    void leave();

    // What has gone wrong behind earlier calls; empty if nothing has.
    std::string problem() const;

    int32_t const rank;
    int32_t const size;
    int32_t const device;
    void* const context;  // CUDA's primary one on the device

private:
    void expectUsable() const;

    nccl::Library const library_;
    nccl::Handle handle_ = nullptr;
    bool left_ = false;
    std::mutex mutex_;  // NCCL takes calls on a communicator one at a time
};

// A new id, for rank 0 to hand to the others.
nccl::UniqueId newId(std::string const& library);

// Makes the communicator of this process; there is one only.
void connect(std::string const& library, nccl::UniqueId const& id, int32_t rank, int32_t size, int32_t device);

// The ranks have finished; without a communicator nothing happens.
void disconnect();

// The communicator of this process, or null before `connect`.
Communicator* current();

}  // namespace alibi::collectives
