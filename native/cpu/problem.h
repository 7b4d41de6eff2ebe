// What the CPU kernels are asked for: one call with its addresses, in the terms of the specification.
//
// Plain members only: the kernels are compiled for several instruction sets, and an inline function that one of them
// instantiated could be what the linker keeps for all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/bundle.h"

namespace alibi::cpu {

constexpr int kBlock = 64;                      // keys that are scored together; one key norm stands for as many
constexpr int64_t kFar = int64_t{1} << 40;      // the side of a window that has no end
constexpr float kLowest = -3.4028234663852886e38F;  // an additive mask at or below it hides
constexpr float kHighest = 3.4028234663852886e38F;

struct Problem {
    Type type;      // of query and output
    Type keyType;   // of key and value; float32 for `prefill`
    Type maskType;  // none without a mask
    bool symmetric;
    bool emptyMean;
    char const* query;
    char const* key;
    char const* value;
    char* output;
    float const* slopes;
    char const* mask;
    float const* positions;  // null: a key's position is its place
    float const* keyBias;    // null: none
    int64_t batch, heads, kvHeads, group, rows, keys, width, valueWidth;
    int64_t const* lengths;  // [batch], from 0 to `keys`: what lies behind is not read
    bool rowsFirst;          // row(i) = i, and not i + length - rows
    int64_t queryStrides[3], keyStrides[3], valueStrides[3], outputStrides[3];  // of B, H, S, in elements
    int64_t maskStrides[4];                                                     // 0 where it is broadcast
    int64_t positionsBatch, keyBiasBatch, keyBiasHead;
    float scale;
    int64_t left, right;  // key j is visible to row i only from i - left to i + right
    float skipBits;       // < 0: nothing is skipped; otherwise a row's skipped weights are below 2^-skipBits of its sum
    bool skipUnderflow;   // only blocks whose every weight is 0 in float32
    float const* norms;   // [batch * kvHeads][blocks]: the largest norm of a block's keys; null if nothing is skipped
};

inline int64_t blocks(int64_t keys) { return (keys + kBlock - 1) / kBlock; }

// One decode unit's share of a softmax, of each of its rows: the largest score, the sum of weights, the weighted values.
struct Share {
    float* top;     // [rows]
    float* sum;     // [rows]
    float* values;  // [rows][valueWidth]
};

// The kernels of one instruction set.  Scratch is aligned to 64 bytes.
struct Kernels {
    char const* name;
    int64_t tile;  // query rows of a prefill unit
    size_t (*prefillScratch)(Problem const&);
    void (*prefill)(Problem const&, int64_t batch, int64_t head, int64_t row, int rows, float* scratch);
    size_t (*decodeScratch)(Problem const&);
    // All rows of all heads of a group over the keys from .. to.
    void (*decode)(Problem const&, int64_t batch, int64_t kvHead, int64_t from, int64_t to, Share const&,
                   float* scratch);
    void (*norms)(Problem const&, int64_t batch, int64_t kvHead, float* into);
    void (*mean)(Problem const&, int64_t batch, int64_t kvHead, float* into);
    void (*widen)(Type, void const* from, float* to, int64_t count);
    void (*narrow)(Type, float const* from, void* to, int64_t count);
};

extern Kernels const kPortable;
#if defined(__x86_64__) && !defined(ALIBI_PORTABLE_ONLY)
extern Kernels const kAvx2;
extern Kernels const kAvx512;
#endif

}  // namespace alibi::cpu
