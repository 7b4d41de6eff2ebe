#include "cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "cpu/problem.h"

namespace alibi::cpu {
namespace {

constexpr int64_t kSkipFrom = 1000;       // keys; below, finding out costs more than it saves
constexpr int64_t kDecodeFrom = 4;        // query rows up to which lanes are columns
constexpr int64_t kCopyFrom = 512;        // query rows from which strided keys and values are copied first
constexpr int64_t kMostTasks = 64;        // handed to the threads at once; each takes tickets until none is left
constexpr int64_t kAlone = 1 << 18;       // multiplications that one thread has done before another one has woken up
constexpr int64_t kKeysPerChunk = 1024;   // of a decode that has fewer heads than a machine may have threads
constexpr int64_t kDecodeUnits = 32;

bool supports(Kernels const& kernels) {
#if defined(__x86_64__) && !defined(ALIBI_PORTABLE_ONLY)
    __builtin_cpu_init();
    bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (&kernels == &kAvx2) return avx2;
    if (&kernels == &kAvx512) {
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    }
#endif
    return &kernels == &kPortable;
}

std::vector<Kernels const*> known() {
#if defined(__x86_64__) && !defined(ALIBI_PORTABLE_ONLY)
    return {&kAvx512, &kAvx2, &kPortable};
#else
    return {&kPortable};
#endif
}

std::atomic<Kernels const*> chosen{nullptr};

Kernels const& kernels() {
    Kernels const* found = chosen.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    for (Kernels const* one : known()) {
        if (found == nullptr && supports(*one)) found = one;
    }
    chosen.store(found, std::memory_order_release);
    return *found;
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<float, Free>;

Memory allocate(size_t bytes) {
    auto* const memory = static_cast<float*>(std::aligned_alloc(64, (std::max<size_t>(bytes, 1) + 63) / 64 * 64));
    if (memory == nullptr) throw std::bad_alloc();
    return Memory(memory);
}

int64_t side(int64_t window) { return window == kUnbounded ? kFar : window; }

char const* bytes(Operand const& operand) { return static_cast<char const*>(operand.pointer); }

void copyStrides(Operand const& operand, int64_t (&to)[3]) { std::copy_n(operand.strides.begin(), 3, to); }

// How many keys each batch has.
std::vector<int64_t> lengthsOf(Call const& call) {
    std::vector<int64_t> made(static_cast<size_t>(call.batch()), call.keys());
    Operand const& given = call[Tensor::key_lengths];
    if (!given.present) return made;
    for (size_t b = 0; b < made.size(); ++b) {
        int64_t length = 0;  // copied: nothing is believed of an address's alignment
        int64_t const at = static_cast<int64_t>(b) * given.broadcast(0);
        std::memcpy(&length, bytes(given) + at * elementBytes(Type::int64), sizeof length);
        made[b] = std::clamp<int64_t>(length, 0, call.keys());
    }
    return made;
}

Problem problemOf(Call const& call, Member const& member, std::vector<int64_t> const& lengths) {
    Problem p{};
    Operand const& mask = call[Tensor::mask];
    Operand const& positions = call[Tensor::key_positions];
    Operand const& bias = call[Tensor::key_bias];
    p.type = call[Tensor::query].type;
    p.keyType = p.type;
    p.maskType = mask.present ? mask.type : Type::none;
    p.symmetric = member.form == Form::symmetric;
    p.emptyMean = call.emptyMean;
    p.query = bytes(call[Tensor::query]);
    p.key = bytes(call[Tensor::key]);
    p.value = bytes(call[Tensor::value]);
    p.output = const_cast<char*>(bytes(call[Tensor::output]));
    p.slopes = static_cast<float const*>(call[Tensor::slopes].pointer);
    p.mask = mask.present ? bytes(mask) : nullptr;
    p.positions = positions.present ? static_cast<float const*>(positions.pointer) : nullptr;
    p.keyBias = bias.present ? static_cast<float const*>(bias.pointer) : nullptr;
    p.batch = call.batch();
    p.heads = call.heads();
    p.kvHeads = call.kvHeads();
    p.group = p.heads / p.kvHeads;
    p.rows = call.rows();
    p.keys = call.keys();
    p.lengths = lengths.data();
    p.rowsFirst = call.rowsFirst;
    p.width = call.width();
    p.valueWidth = call.valueWidth();
    copyStrides(call[Tensor::query], p.queryStrides);
    copyStrides(call[Tensor::key], p.keyStrides);
    copyStrides(call[Tensor::value], p.valueStrides);
    copyStrides(call[Tensor::output], p.outputStrides);
    for (size_t axis = 0; axis < 4; ++axis) p.maskStrides[axis] = mask.broadcast(axis);
    p.positionsBatch = positions.broadcast(0);
    p.keyBiasBatch = bias.broadcast(0);
    p.keyBiasHead = bias.broadcast(1);
    p.scale = call.scale;
    p.left = side(call.windowLeft);
    p.right = member.causal ? std::min<int64_t>(0, side(call.windowRight)) : side(call.windowRight);
    p.skipBits = 24;
    return p;
}

// Calls `body(unit, scratch)` for 0 .. units - 1, on the threads if there is enough to do for them.
template <typename Body>
void forEach(Threads& threads, int64_t units, int64_t multiplications, size_t scratchBytes, Body const& body) {
    struct Work {
        Body const& body;
        int64_t units;
        size_t scratchBytes;
        std::atomic<int64_t> ticket{0};
        std::atomic<bool> failed{false};
    } work{body, units, scratchBytes};
    auto const task = [](void* context, size_t) {
        Work& shared = *static_cast<Work*>(context);
        try {
            Memory const scratch = allocate(shared.scratchBytes);
            for (int64_t unit; (unit = shared.ticket.fetch_add(1, std::memory_order_relaxed)) < shared.units;) {
                shared.body(unit, scratch.get());
            }
        } catch (...) {
            shared.failed = true;
        }
    };
    threads.run(multiplications < kAlone ? 1 : std::min(units, kMostTasks), task, &work);
    if (work.failed) throw std::bad_alloc();
}

// Keys of all batches together, and of the longest.
int64_t allKeys(Problem const& p) { return std::accumulate(p.lengths, p.lengths + p.batch, int64_t{0}); }
int64_t mostKeys(Problem const& p) { return *std::max_element(p.lengths, p.lengths + p.batch); }

int64_t multiplications(Problem const& p) { return allKeys(p) * p.heads * p.rows * (p.width + p.valueWidth); }

// Keys and values that every tile of rows reads: of 16 bits they become float32 once, and dense.  In a packed projection
// rows lie far apart, which costs each of many tiles more than one copy.
struct Widened {
    Memory key;
    Memory value;
};

bool apart(Problem const& p) { return p.keyStrides[2] != p.width || p.valueStrides[2] != p.valueWidth; }

Widened widenKeys(Problem& p, Threads& threads) {
    Widened made;
    bool const wide = p.keyType == Type::float32;
    if (wide && (p.rows < kCopyFrom || !apart(p))) return made;
    int64_t const size = elementBytes(p.keyType);
    int64_t const heads = p.batch * p.kvHeads;
    int64_t const keys = mostKeys(p);
    made.key = allocate(static_cast<size_t>(heads * keys * p.width) * sizeof(float));
    made.value = allocate(static_cast<size_t>(heads * keys * p.valueWidth) * sizeof(float));
    float* const key = made.key.get();
    float* const value = made.value.get();
    Kernels const& kernel = kernels();
    forEach(threads, heads, multiplications(p), 0, [&](int64_t unit, float*) {
        int64_t const b = unit / p.kvHeads;
        int64_t const h = unit % p.kvHeads;
        for (int64_t j = 0; j < p.lengths[b]; ++j) {
            char const* const k = p.key + size * (b * p.keyStrides[0] + h * p.keyStrides[1] + j * p.keyStrides[2]);
            char const* const v = p.value + size * (b * p.valueStrides[0] + h * p.valueStrides[1] + j * p.valueStrides[2]);
            float* const toKey = key + (unit * keys + j) * p.width;
            float* const toValue = value + (unit * keys + j) * p.valueWidth;
            if (wide) {
                std::memcpy(toKey, k, static_cast<size_t>(size * p.width));
                std::memcpy(toValue, v, static_cast<size_t>(size * p.valueWidth));
            } else {
                kernel.widen(p.keyType, k, toKey, p.width);
                kernel.widen(p.keyType, v, toValue, p.valueWidth);
            }
        }
    });
    p.key = reinterpret_cast<char const*>(key);
    p.value = reinterpret_cast<char const*>(value);
    p.keyType = Type::float32;
    int64_t const keyStrides[3] = {p.kvHeads * keys * p.width, keys * p.width, p.width};
    int64_t const valueStrides[3] = {p.kvHeads * keys * p.valueWidth, keys * p.valueWidth, p.valueWidth};
    std::copy_n(keyStrides, 3, p.keyStrides);
    std::copy_n(valueStrides, 3, p.valueStrides);
    return made;
}

void prefill(Problem p, Skipping skipping, Threads& threads) {
    Kernels const& kernel = kernels();
    Widened const widened = widenKeys(p, threads);
    Memory norms;
    if (skipping != Skipping::none && mostKeys(p) >= kSkipFrom) {
        int64_t const heads = p.batch * p.kvHeads;
        norms = allocate(static_cast<size_t>(heads * blocks(p.keys)) * sizeof(float));
        float* const into = norms.get();
        forEach(threads, heads, multiplications(p), 0, [&](int64_t unit, float*) {
            kernel.norms(p, unit / p.kvHeads, unit % p.kvHeads, into + unit * blocks(p.keys));
        });
        p.norms = into;
        p.skipUnderflow = skipping == Skipping::underflow;
    }
    int64_t const tiles = (p.rows + kernel.tile - 1) / kernel.tile;
    forEach(threads, p.batch * p.heads * tiles, multiplications(p), kernel.prefillScratch(p), [&](int64_t unit, float* scratch) {
        // Later rows see more keys; the longest work comes first.
        int64_t const row = (tiles - 1 - unit % tiles) * kernel.tile;
        int64_t const head = unit / tiles;
        auto const rows = static_cast<int>(std::min(kernel.tile, p.rows - row));
        kernel.prefill(p, head / p.heads, head % p.heads, row, rows, scratch);
    });
}

// The shares of all chunks, [chunk][row]; of row r of one key head.
void combine(Problem const& p, int64_t unit, std::vector<Share> const& chunks, int64_t r, float* sum) {
    float top = -std::numeric_limits<float>::infinity();
    for (Share const& share : chunks) {
        if (share.sum[r] != 0.0F && !(share.top[r] <= top)) top = share.top[r];
    }
    float total = 0;
    std::fill_n(sum, p.valueWidth, 0.0F);
    for (Share const& share : chunks) {
        if (share.sum[r] == 0.0F) continue;
        float const weight = std::exp2(share.top[r] - top);
        total += weight * share.sum[r];
        for (int64_t x = 0; x < p.valueWidth; ++x) sum[x] += weight * share.values[r * p.valueWidth + x];
    }
    if (total == 0.0F) {
        if (p.emptyMean) kernels().mean(p, unit / p.kvHeads, unit % p.kvHeads, sum);
        return;
    }
    for (int64_t x = 0; x < p.valueWidth; ++x) sum[x] /= total;
}

// What one thread decodes at a time: some keys of a batch and key head.
struct Piece {
    int64_t head, from, to;
};

// The keys of every batch in pieces; `begin` of a head are the first of its pieces, and a batch without keys has none.
std::vector<Piece> piecesOf(Problem const& p, std::vector<size_t>& begin) {
    std::vector<Piece> made;
    int64_t const all = std::max<int64_t>(1, allKeys(p) * p.kvHeads);
    for (int64_t head = 0; head < p.batch * p.kvHeads; ++head) {
        begin.push_back(made.size());
        int64_t const keys = p.lengths[head / p.kvHeads];
        int64_t const wanted = std::max<int64_t>(1, kDecodeUnits * keys / all);
        int64_t const chunks = std::clamp<int64_t>(keys / kKeysPerChunk, 1, wanted);
        int64_t const perChunk = (blocks(keys) + chunks - 1) / chunks * kBlock;
        for (int64_t from = 0; from < keys; from += perChunk) made.push_back({head, from, std::min(keys, from + perChunk)});
    }
    begin.push_back(made.size());
    return made;
}

void decode(Problem const& p, Threads& threads) {
    Kernels const& kernel = kernels();
    int64_t const heads = p.batch * p.kvHeads;
    int64_t const rows = p.group * p.rows;
    std::vector<size_t> begin;
    std::vector<Piece> const pieces = piecesOf(p, begin);
    int64_t const floats = rows * (p.valueWidth + 2);
    Memory const shares = allocate(pieces.size() * static_cast<size_t>(floats) * sizeof(float));
    auto const shareOf = [&](size_t piece) {
        float* const at = shares.get() + static_cast<int64_t>(piece) * floats;
        return Share{at, at + rows, at + 2 * rows};
    };
    auto const units = static_cast<int64_t>(pieces.size());
    forEach(threads, units, multiplications(p), kernel.decodeScratch(p), [&](int64_t unit, float* scratch) {
        Piece const& piece = pieces[static_cast<size_t>(unit)];
        Share const share = shareOf(static_cast<size_t>(unit));
        kernel.decode(p, piece.head / p.kvHeads, piece.head % p.kvHeads, piece.from, piece.to, share, scratch);
    });
    std::vector<Share> of;
    std::vector<float> sum(static_cast<size_t>(p.valueWidth));
    int64_t const size = elementBytes(p.type);
    for (int64_t head = 0; head < heads; ++head) {
        of.clear();
        for (size_t piece = begin[static_cast<size_t>(head)]; piece < begin[static_cast<size_t>(head) + 1]; ++piece) {
            of.push_back(shareOf(piece));
        }
        for (int64_t r = 0; r < rows; ++r) {
            combine(p, head, of, r, sum.data());
            int64_t const h = head % p.kvHeads * p.group + r / p.rows;
            char* const out = p.output + size * (head / p.kvHeads * p.outputStrides[0] + h * p.outputStrides[1]
                                                 + r % p.rows * p.outputStrides[2]);
            kernel.narrow(p.type, sum.data(), out, p.valueWidth);
        }
    }
}

void fillZero(Call const& call) {
    Operand const& output = call[Tensor::output];
    int64_t size = elementBytes(output.type);
    for (int64_t extent : output.shape) size *= extent;
    std::memset(const_cast<void*>(output.pointer), 0, static_cast<size_t>(size));
}

}  // namespace

void attention(Call const& call, Member const& member, Skipping skipping, Threads& threads) {
    if (call.batch() == 0 || call.heads() == 0 || call.rows() == 0 || call.valueWidth() == 0) return;
    if (call.keys() == 0) return fillZero(call);
    std::vector<int64_t> const lengths = lengthsOf(call);
    Problem const p = problemOf(call, member, lengths);
    if (p.rows <= kDecodeFrom) {
        decode(p, threads);
    } else {
        prefill(p, skipping, threads);
    }
}

char const* instructionSet() { return kernels().name; }

bool useInstructionSet(std::string_view name) {
    for (Kernels const* one : known()) {
        if (name != one->name || !supports(*one)) continue;
        chosen.store(one, std::memory_order_release);
        return true;
    }
    return false;
}

}  // namespace alibi::cpu
