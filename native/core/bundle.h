// A bundle: the compiled kernels of one kind of node with their launch description, as they travel in the node's
// `kernels` attribute.  Written by engine/container.py, read here.  Immutable once read, shared by all clones.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace alibi {

// Names that formulas, conditions and arguments may use; the words are those of kernels/description.py.
enum class Size : uint8_t {
    batch, heads, kv_heads, group, s_q, s_kv, head_dim, value_dim, splits, multiprocessors, rows, surplus,
    mask_batches, mask_heads, first_surplus, wide_saves, count
};
enum class Tensor : uint8_t { query, key, value, output, slopes, mask, key_positions, key_bias, key_lengths, count };
enum class Scratch : uint8_t { key_norms, reach, partial, partial_sums, ticket, previous, blocks, key_terms, count };
enum class Stride : uint8_t {
    query_batch, query_head, query_row, key_batch, key_head, key_row, value_batch, value_head, value_row,
    output_batch, output_head, output_row, mask_batch, mask_head, mask_row, mask_column, positions_batch,
    bias_batch, bias_head, lengths_batch, count
};
enum class Role : uint8_t { prefill, decode, decode_split, combine, key_norms, reach, blocks, extend, count };
enum class Type : uint8_t { none, float16, bfloat16, float32, boolean, int64, count };

using Sizes = std::array<int64_t, static_cast<size_t>(Size::count)>;

inline int64_t& at(Sizes& sizes, Size size) { return sizes[static_cast<size_t>(size)]; }
inline int64_t at(Sizes const& sizes, Size size) { return sizes[static_cast<size_t>(size)]; }

int64_t elementBytes(Type type);

struct Factor {  // ceil(product of sizes / divisor)
    std::vector<Size> sizes;
    int64_t divisor = 1;
};

struct Extent {  // product of factors, at most the named size
    std::vector<Factor> factors;
    std::optional<Size> atMost;

    int64_t value(Sizes const& sizes) const;
};

struct Condition {
    Size size{};
    std::optional<int64_t> atLeast;
    std::optional<int64_t> atMost;

    bool holds(Sizes const& sizes) const;
};

struct TensorMap {  // recipe for cuTensorMapEncodeTiled, rank 4
    std::array<uint32_t, 4> box{};
    uint32_t swizzleBytes = 0;
};

struct Argument {
    enum class Kind : uint8_t { tensor, scratch, tensorMap, sizeInt32, strideInt32, strideInt64, scale, emptyMean,
                                windowLeft, windowRight, rowsFirst, zero32, zero64 };
    Kind kind{};
    uint8_t name = 0;  // a Tensor, Scratch, Size or Stride, by kind
    int64_t multipleOf = 1;
    TensorMap map;
};

struct Blob {
    std::array<uint8_t, 32> sha256{};
    std::string_view bytes;  // into the bundle's own body; PTX ends with a NUL
};

struct Kernel {
    std::string name;
    Role role{};
    int32_t arch = 0;  // compute capability times ten
    bool exactArch = false;
    bool contiguous = false;
    bool maskRows = false;
    bool maskDense = false;
    std::vector<Condition> conditions;
    std::string entry;
    uint32_t threads = 0;
    uint32_t sharedBytes = 0;
    int64_t programs = 1;  // of a decode, on each multiprocessor
    std::array<Extent, 3> grid;
    std::vector<Argument> arguments;
    std::optional<uint32_t> cubin;  // index of a blob
    std::optional<uint32_t> ptx;

    bool uses(Argument::Kind kind, uint8_t name) const;
};

struct Buffer {
    Scratch name{};
    int64_t elementBytes = 0;
    Extent extent;
};

struct Selection {
    int64_t decodeRows = 0;
    int64_t minKeys = 0;
    int64_t maxSplits = 0;
};

// How one device is served: the architecture whose kernels it runs, from machine code or from PTX.
struct Service {
    int32_t arch = 0;
    bool fromPtx = false;
};

class Bundle {
public:
    // Reads and validates; throws std::runtime_error with one sentence if anything is malformed.
    static std::shared_ptr<Bundle const> read(std::string_view bytes);

    // The best kernels for a device; throws std::runtime_error if there are none.
    Service serve(int32_t deviceArch) const;

    std::string storage;  // the bytes it was read from, to be stored again
    std::string body;     // decompressed; images lie in here
    std::string opType;
    Type dtype = Type::none;
    Type maskType = Type::none;
    int64_t headDim = 0;
    int64_t valueDim = 0;
    Selection selection;
    std::vector<Buffer> workspace;
    std::vector<Kernel> kernels;
    std::vector<Blob> blobs;
};

}  // namespace alibi
