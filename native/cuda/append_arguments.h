// What the appending kernels are given; host and device read it.
#pragma once

#include <cstdint>

struct Side {
    char* present;
    char const* fresh;
    int64_t strides[3];  // of batch, head and row of the new ones, in bytes
    uint32_t units;      // of a row
};

struct Arguments {
    Side sides[2];
    int64_t const* lengths;
    int64_t lengthStride;
    int64_t capacity;
    uint32_t heads;
    uint32_t rows;
    uint32_t count;  // batch * heads * rows
    uint32_t lanes;  // threads of a row
};

static_assert(sizeof(Side) == 48 && sizeof(Arguments) == 136, "the same for both compilers");
