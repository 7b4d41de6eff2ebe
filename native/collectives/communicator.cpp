#include "collectives/communicator.h"

#include <atomic>
#include <stdexcept>

#include "cuda/driver.h"

namespace alibi::collectives {
namespace {

std::atomic<Communicator*> made{nullptr};

}  // namespace

Communicator::Communicator(std::string const& library, nccl::UniqueId const& id, int32_t rank, int32_t size, int32_t device)
    : rank(rank), size(size), device(device), context(primaryContext(device)), library_(library) {
    // NCCL takes the device whose context is current.
    CurrentContext const here(context);
    library_.require(library_.initRank(&handle_, size, id, rank), "ncclCommInitRank");
    int32_t taken = -1;
    library_.require(library_.deviceOf(handle_, &taken), "ncclCommCuDevice", handle_);
    if (taken != device) {
        throw std::runtime_error("NCCL has taken GPU " + std::to_string(taken) + " instead of " + std::to_string(device));
    }
}

void Communicator::leave() {
    std::lock_guard<std::mutex> const lock(mutex_);
    left_ = true;
}

void Communicator::expectUsable() const {
    if (left_) throw std::runtime_error("this process has disconnected from the other ranks");
    std::string const found = problem();
    if (!found.empty()) throw std::runtime_error("the ranks have lost each other: " + found);
}

std::string Communicator::problem() const {
    nccl::Result found = nccl::kSuccess;
    nccl::Result const asked = library_.asyncError(handle_, &found);
    if (asked != nccl::kSuccess) found = asked;
    return found == nccl::kSuccess || found == nccl::kInProgress ? "" : library_.words(found, handle_);
}

void Communicator::allReduce(void const* from, void* to, size_t count, nccl::DataType type, void* stream) {
    std::lock_guard<std::mutex> const lock(mutex_);
    expectUsable();
    library_.require(library_.allReduce(from, to, count, type, nccl::kSum, handle_, stream), "ncclAllReduce", handle_);
}

void Communicator::allGather(void const* from, void* to, size_t count, nccl::DataType type, void* stream) {
    std::lock_guard<std::mutex> const lock(mutex_);
    expectUsable();
    library_.require(library_.allGather(from, to, count, type, handle_, stream), "ncclAllGather", handle_);
}

nccl::UniqueId newId(std::string const& library) {
    nccl::Library const opened(library);
    nccl::UniqueId id{};
    opened.require(opened.uniqueId(&id), "ncclGetUniqueId");
    return id;
}

void connect(std::string const& library, nccl::UniqueId const& id, int32_t rank, int32_t size, int32_t device) {
    static std::mutex mutex;
    std::lock_guard<std::mutex> const lock(mutex);
    if (made.load() != nullptr) throw std::runtime_error("this process is connected already");
    if (size < 1 || rank < 0 || rank >= size) {
        throw std::runtime_error("rank " + std::to_string(rank) + " is none of " + std::to_string(size));
    }
    made.store(new Communicator(library, id, rank, size, device));
}

void disconnect() {
    if (Communicator* const found = current()) found->leave();
}

Communicator* current() { return made.load(); }

}  // namespace alibi::collectives
