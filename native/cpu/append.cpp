#include "cpu/append.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace alibi::cpu {
namespace {

void expectRoom(AppendCall const& call) {
    for (int64_t b = 0; b < call.batch; ++b) {
        int64_t const length = call.lengths[b * call.lengthStride];
        if (length >= call.rows && length <= call.capacity) continue;
        std::string const which = std::string(kAppendOp) + ": key_lengths[" + std::to_string(b) + "] is "
            + std::to_string(length);
        if (length > call.capacity) {
            throw std::runtime_error(which + ", and the cache has room for " + std::to_string(call.capacity)
                                     + " keys; nothing was written. Make the buffers longer, or end the sequence");
        }
        throw std::runtime_error(which + ", fewer than the " + std::to_string(call.rows)
                                 + " new keys that it counts; nothing was written");
    }
}

}  // namespace

void append(AppendCall const& call) {
    expectRoom(call);
    for (size_t which = 0; which < 2; ++which) {
        Appended const& one = call.both[which];
        auto const bytes = static_cast<size_t>(call.bufferBytes(which));
        if (one.present != one.past && bytes > 0) std::memcpy(one.present, one.past, bytes);
        for (int64_t b = 0; b < call.batch; ++b) {
            int64_t const first = call.lengths[b * call.lengthStride] - call.rows;
            for (int64_t h = 0; h < call.heads; ++h) {
                char const* source = one.fresh + b * one.strides[0] + h * one.strides[1];
                char* target = one.present + ((b * call.heads + h) * call.capacity + first) * one.rowBytes;
                for (int64_t s = 0; s < call.rows; ++s, source += one.strides[2], target += one.rowBytes) {
                    std::memcpy(target, source, static_cast<size_t>(one.rowBytes));
                }
            }
        }
    }
}

}  // namespace alibi::cpu
