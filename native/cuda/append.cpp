#include "cuda/append.h"

#include <algorithm>
#include <stdexcept>

#include "cuda/append_arguments.h"
#include "cuda/append_ptx.h"

namespace alibi::cuda {
namespace {

constexpr uint32_t kThreads = 256;

uint32_t narrow(int64_t value) {
    if (value < 0 || value > INT32_MAX) throw std::runtime_error(std::string(kAppendOp) + ": a size is beyond 32 bits");
    return static_cast<uint32_t>(value);
}

}  // namespace

std::shared_ptr<Program const> loadAppend() {
    return loadProgram(kAppendPtx, {"alibi_append_16", "alibi_append_4", "alibi_append_2"});
}

void append(Program const& program, AppendCall const& call, void* stream) {
    for (size_t which = 0; which < 2; ++which) {
        Appended const& one = call.both[which];
        int64_t const bytes = call.bufferBytes(which);
        if (one.present != one.past && bytes > 0) copy(one.present, one.past, static_cast<size_t>(bytes), stream);
    }
    uint32_t const count = narrow(product(product(call.batch, call.heads), call.rows));
    if (count == 0 || call.capacity == 0) return;
    // The widest unit that every row begins and ends with.
    uint64_t together = 0;
    for (Appended const& one : call.both) {
        together |= reinterpret_cast<uint64_t>(one.present) | reinterpret_cast<uint64_t>(one.fresh)
            | static_cast<uint64_t>(one.rowBytes);
        for (int64_t stride : one.strides) together |= static_cast<uint64_t>(stride);
    }
    constexpr uint32_t kUnits[] = {16, 4, 2};
    size_t entry = 0;
    while (together % kUnits[entry] != 0) ++entry;  // a number has two bytes at least
    Arguments given{};
    uint32_t most = 1;
    for (size_t which = 0; which < 2; ++which) {
        Appended const& one = call.both[which];
        Side& side = given.sides[which];
        side.present = one.present;
        side.fresh = one.fresh;
        std::copy(one.strides.begin(), one.strides.end(), side.strides);
        side.units = narrow(one.rowBytes / kUnits[entry]);
        most = std::max(most, side.units);
    }
    given.lengths = call.lengths;
    given.lengthStride = call.lengthStride;
    given.capacity = call.capacity;
    given.heads = narrow(call.heads);
    given.rows = narrow(call.rows);
    given.count = count;
    given.lanes = std::min(most, kThreads);
    uint32_t const rowsOfBlock = kThreads / given.lanes;
    void* parameters[] = {&given};
    launch(program, entry, {(count - 1) / rowsOfBlock + 1, 2}, rowsOfBlock * given.lanes, parameters, stream);
}

}  // namespace alibi::cuda
