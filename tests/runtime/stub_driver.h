#pragma once

#include <cstdint>

struct StubCounts {
    int64_t loads = 0;     // modules loaded
    int64_t modules = 0;   // of these, loaded still
    int64_t launches = 0;
    int64_t onStream = 0;  // of these, on a stream
    int64_t fills = 0;
};
