#pragma once

#include <cstdint>

struct StubCounts {
    int64_t loads = 0;     // modules loaded
    int64_t modules = 0;   // of these, loaded still
    int64_t launches = 0;
    int64_t onStream = 0;  // of these, on a stream
    int64_t fills = 0;
    uint64_t mapped = 0;    // the address of the last bulk-copy descriptor
    uint64_t headBytes = 0; // from one head to the next one there
};
