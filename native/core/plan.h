// From a call to its launches: which kernels, which grid, how much workspace.  Pure; nothing here touches a GPU.
// The same decisions as kernels/plan.py, which tests compare it with.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/call.h"

namespace alibi {

constexpr int64_t kWorkspaceAlignment = 256;

// The workspace is asked for when the engine is built, perhaps without a GPU; a device with more multiprocessors than
// this is treated as if it had so many.
constexpr int64_t kMostMultiprocessors = 512;

struct Device {
    Service service;
    int64_t multiprocessors = 1;
};

struct Launch {
    Kernel const* kernel = nullptr;
    std::array<uint32_t, 3> grid{};
};

struct Plan {
    Sizes sizes{};
    std::array<int64_t, static_cast<size_t>(Stride::count)> strides{};
    std::vector<Launch> launches;
    std::array<int64_t, static_cast<size_t>(Scratch::count)> offsets{};
    int64_t workspaceBytes = 0;
    bool empty = false;  // nothing to compute: an output without elements
};

// Chooses the kernels of a call; `alternative` 0 is the preferred prefill kernel, 1 the next that fits, and so on.
// Throws std::runtime_error if the call does not fit the bundle or no kernel serves it.
Plan makePlan(Bundle const& bundle, Call const& call, Device const& device, int32_t alternative = 0);

// What any call within these largest sizes may need, on any device.  Throws std::runtime_error beyond 62 bits.
int64_t workspaceBound(Bundle const& bundle, int64_t batch, int64_t heads, int64_t kvHeads, int64_t sQ, int64_t sKv);

// How many prefill kernels of one architecture may serve the same call, at most.
int32_t alternatives(Bundle const& bundle);

}  // namespace alibi
