#include "core/inflate.h"

#include <array>
#include <cstdint>
#include <stdexcept>

namespace alibi {
namespace {

constexpr int kMostBits = 15;
constexpr int kMostSymbols = 288;

[[noreturn]] void damaged() { throw std::runtime_error("compressed data are damaged"); }

class Bits {
public:
    explicit Bits(std::string_view bytes) : bytes_(bytes) {}

    uint32_t take(int count) {
        while (held_ < count) {
            if (place_ == bytes_.size()) damaged();
            buffer_ |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[place_++])) << held_;
            held_ += 8;
        }
        auto const value = static_cast<uint32_t>(buffer_ & ((uint64_t{1} << count) - 1));
        buffer_ >>= count;
        held_ -= count;
        return value;
    }

    // The rest of the current byte is padding before a stored block.
    void skipToByte() {
        buffer_ >>= held_ % 8;
        held_ -= held_ % 8;
    }

    bool done() const { return place_ == bytes_.size() && held_ < 8; }

private:
    std::string_view bytes_;
    size_t place_ = 0;
    uint64_t buffer_ = 0;
    int held_ = 0;
};

// A canonical Huffman code: how many codes each length has, and the symbols in the order of their codes.
class Code {
public:
    Code(uint8_t const* lengths, int count) {
        for (int i = 0; i < count; ++i) ++counts_[lengths[i]];
        counts_[0] = 0;
        int left = 1;
        for (int bits = 1; bits <= kMostBits; ++bits) {
            left = 2 * left - counts_[bits];
            if (left < 0) damaged();  // more codes than there can be
        }
        std::array<uint16_t, kMostBits + 2> offsets{};
        for (int bits = 1; bits <= kMostBits; ++bits) {
            offsets[bits + 1] = static_cast<uint16_t>(offsets[bits] + counts_[bits]);
        }
        for (int i = 0; i < count; ++i) {
            if (lengths[i] != 0) symbols_[offsets[lengths[i]]++] = static_cast<uint16_t>(i);
        }
    }

    uint32_t read(Bits& bits) const {
        int code = 0;
        int first = 0;
        int index = 0;
        for (int length = 1; length <= kMostBits; ++length) {
            code |= static_cast<int>(bits.take(1));
            int const count = counts_[length];
            if (code - count < first) return symbols_[static_cast<size_t>(index + code - first)];
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        damaged();
    }

private:
    std::array<uint16_t, kMostBits + 1> counts_{};
    std::array<uint16_t, kMostSymbols> symbols_{};
};

void copyBlock(Bits& bits, Code const& literals, Code const& distances, std::string& out, size_t length) {
    constexpr uint16_t kLengths[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                     31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    constexpr uint8_t kLengthBits[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    constexpr uint16_t kDistances[] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                       193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    constexpr uint8_t kDistanceBits[] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                         6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
    constexpr uint32_t kEnd = 256;
    while (true) {
        uint32_t symbol = literals.read(bits);
        if (symbol < kEnd) {
            if (out.size() == length) damaged();
            out.push_back(static_cast<char>(symbol));
            continue;
        }
        if (symbol == kEnd) return;
        symbol -= kEnd + 1;
        if (symbol >= std::size(kLengths)) damaged();
        size_t const run = kLengths[symbol] + bits.take(kLengthBits[symbol]);
        uint32_t const far = distances.read(bits);
        if (far >= std::size(kDistances)) damaged();
        size_t const distance = kDistances[far] + bits.take(kDistanceBits[far]);
        if (distance > out.size() || run > length - out.size()) damaged();
        // Byte by byte: a run may overlap what it copies from.
        for (size_t i = 0; i < run; ++i) out.push_back(out[out.size() - distance]);
    }
}

void storedBlock(Bits& bits, std::string& out, size_t length) {
    bits.skipToByte();
    uint32_t const size = bits.take(16);
    if (bits.take(16) != (~size & 0xFFFF) || size > length - out.size()) damaged();
    for (uint32_t i = 0; i < size; ++i) out.push_back(static_cast<char>(bits.take(8)));
}

void fixedBlock(Bits& bits, std::string& out, size_t length) {
    std::array<uint8_t, kMostSymbols> literals{};
    std::array<uint8_t, 30> distances{};
    for (size_t i = 0; i < literals.size(); ++i) literals[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    distances.fill(5);
    copyBlock(bits, Code(literals.data(), kMostSymbols), Code(distances.data(), 30), out, length);
}

void dynamicBlock(Bits& bits, std::string& out, size_t length) {
    constexpr uint8_t kOrder[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    int const literalCount = static_cast<int>(bits.take(5)) + 257;
    int const distanceCount = static_cast<int>(bits.take(5)) + 1;
    uint32_t const given = bits.take(4) + 4;
    if (literalCount > 286 || distanceCount > 30) damaged();
    std::array<uint8_t, 19> first{};
    for (uint32_t i = 0; i < given; ++i) first[kOrder[i]] = static_cast<uint8_t>(bits.take(3));
    Code const lengthCode(first.data(), 19);
    std::array<uint8_t, 286 + 30> lengths{};
    for (int i = 0; i < literalCount + distanceCount;) {
        uint32_t const symbol = lengthCode.read(bits);
        if (symbol < 16) {
            lengths[static_cast<size_t>(i++)] = static_cast<uint8_t>(symbol);
            continue;
        }
        if (symbol == 16 && i == 0) damaged();
        uint8_t const repeated = symbol == 16 ? lengths[static_cast<size_t>(i - 1)] : 0;
        uint32_t const times = symbol == 16 ? 3 + bits.take(2) : symbol == 17 ? 3 + bits.take(3) : 11 + bits.take(7);
        if (i + static_cast<int>(times) > literalCount + distanceCount) damaged();
        for (uint32_t k = 0; k < times; ++k) lengths[static_cast<size_t>(i++)] = repeated;
    }
    if (lengths[256] == 0) damaged();  // a block that cannot end
    copyBlock(bits, Code(lengths.data(), literalCount), Code(lengths.data() + literalCount, distanceCount), out, length);
}

}  // namespace

std::string inflate(std::string_view compressed, size_t length) {
    std::string out;
    out.reserve(length);
    Bits bits(compressed);
    bool last = false;
    while (!last) {
        last = bits.take(1) == 1;
        switch (bits.take(2)) {
            case 0: storedBlock(bits, out, length); break;
            case 1: fixedBlock(bits, out, length); break;
            case 2: dynamicBlock(bits, out, length); break;
            default: damaged();
        }
    }
    if (out.size() != length || !bits.done()) damaged();
    return out;
}

}  // namespace alibi
