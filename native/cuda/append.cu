// New rows of keys and values into their buffers.  native/cuda/append_ptx.h holds what nvcc makes of this file for the
// oldest GPUs that there are kernels for; the driver compiles it for the one that is there.  benchmarks/pins/append.py
// writes that file.
#include <cstdint>

#include "append_arguments.h"

// A block moves several rows of keys or of values.  A row that has no place in the buffer is left out.
template <typename Unit>
__device__ void append(Arguments const& given) {
    Side const& side = given.sides[blockIdx.y];
    uint32_t const row = blockIdx.x * (blockDim.x / given.lanes) + threadIdx.x / given.lanes;
    if (row >= given.count) return;
    // Heads change fastest: those of one token lie side by side in a projection.
    uint32_t const head = row % given.heads;
    uint32_t const s = row / given.heads % given.rows;
    uint32_t const batch = row / given.heads / given.rows;
    int64_t const place = given.lengths[batch * given.lengthStride] - given.rows + s;
    if (place < 0 || place >= given.capacity) return;
    int64_t const sequence = static_cast<int64_t>(batch) * given.heads + head;
    auto const* source = reinterpret_cast<Unit const*>(side.fresh + batch * side.strides[0] + head * side.strides[1]
                                                       + s * side.strides[2]);
    auto* target = reinterpret_cast<Unit*>(side.present) + (sequence * given.capacity + place) * side.units;
    for (uint32_t unit = threadIdx.x % given.lanes; unit < side.units; unit += given.lanes) target[unit] = source[unit];
}

extern "C" __global__ void alibi_append_16(Arguments const given) { append<uint4>(given); }
extern "C" __global__ void alibi_append_4(Arguments const given) { append<uint32_t>(given); }
extern "C" __global__ void alibi_append_2(Arguments const given) { append<uint16_t>(given); }
