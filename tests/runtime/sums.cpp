// Calls the CPU kernels with buffers of exactly the size that the shapes say, from several threads, for the sanitizers.
//
//   sums SEED ROUNDS
#include <cstdio>
#include <cstdlib>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "alone.h"

extern "C" int32_t alibiSelfTest() noexcept;

using namespace alibi;

namespace {

struct Case {
    std::mt19937_64 random;
    std::vector<std::unique_ptr<char[]>> buffers;

    int64_t upTo(int64_t most) { return 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(most)); }

    void fill(char* bytes, Type type, int64_t count) {
        std::normal_distribution<float> normal;
        for (int64_t i = 0; i < count; ++i) {
            float x = normal(random);
            if (random() % 50 == 0) x = -INFINITY;
            uint32_t bits = 0;
            std::memcpy(&bits, &x, 4);
            auto const half = static_cast<uint16_t>(type == Type::bfloat16 ? bits >> 16 : 0x3000 + (bits & 0x8FF));
            if (type == Type::boolean) bytes[i] = static_cast<char>(random() % 4 != 0);
            else if (type == Type::float32) std::memcpy(bytes + 4 * i, &x, 4);
            else if (type != Type::int64) std::memcpy(bytes + 2 * i, &half, 2);
        }
    }

    Operand operand(Type type, std::vector<int64_t> const& shape) {
        Operand made;
        made.present = true;
        made.type = type;
        int64_t count = 1;
        for (size_t axis = shape.size(); axis-- > 0;) {
            made.shape[axis] = shape[axis];
            made.strides[axis] = count;
            count *= shape[axis];
        }
        buffers.push_back(std::unique_ptr<char[]>(new char[static_cast<size_t>(count * elementBytes(type))]));
        fill(buffers.back().get(), type, count);
        made.pointer = buffers.back().get();
        return made;
    }

    // [B, H, S, D] as a view of a tensor of exactly its size: [B, S, N * W] or [S, B, N, W], with something on every side.
    Operand viewed(Tensor tensor, Type type, std::vector<int64_t> const& shape) {
        bool const merged = random() % 2, first = random() % 2;
        OperandView view;
        view.perm = first ? std::array<int32_t, 4>{1, 2, 0, 3} : std::array<int32_t, 4>{0, 2, 1, 3};
        int64_t extents[2];
        for (size_t side = 0; side < 2; ++side) {
            view.starts[side] = upTo(4) - 1;
            view.ends[side] = view.starts[side] + shape[2 * side + 1];
            extents[side] = view.ends[side] + upTo(4) - 1;
        }
        int64_t const outer = shape[first ? 2 : 0], inner = shape[first ? 0 : 2];
        Described given;
        given.type = type;
        given.rank = merged ? 3 : 4;
        given.extents = {outer, inner, merged ? extents[0] * extents[1] : extents[0], merged ? 0 : extents[1]};
        if (merged) view.cut = {extents[0], extents[1]};
        Operand made = describe(tensor, given, view);
        Operand const whole = operand(type, {outer, inner, extents[0], extents[1]});
        made.bind(whole.pointer);
        return made;
    }

    // The output, merged or in another order of axes.
    Operand moved(Type type, std::vector<int64_t> const& shape) {
        bool const merged = random() % 2;
        OutputView view;
        view.perm = {0, 2, 1, 3};
        if (merged) view.width = shape[1] * shape[3];
        Described given;
        given.type = type;
        given.rank = merged ? 3 : 4;
        given.extents = {shape[0], shape[2], merged ? view.width : shape[1], merged ? 0 : shape[3]};
        Operand made = describeOutput(given, view, shape[1], shape[3]);
        made.bind(operand(type, shape).pointer);
        return made;
    }

    void run() {
        constexpr Type kTypes[] = {Type::float32, Type::float16, Type::bfloat16};
        Member const& member = family()[random() % family().size()];
        Type const type = kTypes[random() % 3];
        int64_t const batch = upTo(2), kvHeads = upTo(2), heads = kvHeads * upTo(3);
        int64_t const rows = random() % 2 ? upTo(5) : upTo(90), keys = random() % 2 ? upTo(90) : upTo(1300);
        int64_t const width = random() % 2 ? upTo(70) : 16, valueWidth = random() % 2 ? upTo(40) : 32;
        auto const either = [&](int64_t extent) { return random() % 2 ? extent : 1; };
        Call call;
        call.scale = 0.25F;
        call.emptyMean = random() % 2 == 0;
        if (member.window) call.windowLeft = upTo(60) - 2, call.windowRight = upTo(60) - 2;
        auto const wide = [&](Tensor tensor, std::vector<int64_t> const& shape) {
            call[tensor] = random() % 2 ? operand(type, shape) : viewed(tensor, type, shape);
        };
        wide(Tensor::query, {batch, heads, rows, width});
        wide(Tensor::key, {batch, kvHeads, keys, width});
        wide(Tensor::value, {batch, kvHeads, keys, valueWidth});
        std::vector<int64_t> const result = {batch, heads, rows, valueWidth};
        call[Tensor::output] = random() % 2 ? operand(type, result) : moved(type, result);
        call[Tensor::slopes] = operand(Type::float32, {heads});
        if (member.masking != Masking::none) {
            Type const maskType = member.masking == Masking::boolean ? Type::boolean : kTypes[random() % 3];
            call[Tensor::mask] = operand(maskType, {either(batch), either(heads), either(rows), either(keys)});
        }
        if (member.positions) call[Tensor::key_positions] = operand(Type::float32, {either(batch), keys});
        if (member.lengths) {
            Operand& lengths = call[Tensor::key_lengths] = operand(Type::int64, {either(batch)});
            auto* const numbers = static_cast<int64_t*>(const_cast<void*>(lengths.pointer));
            for (int64_t b = 0; b < lengths.shape[0]; ++b) numbers[b] = upTo(keys + 4) - 3;
            call.rowsFirst = random() % 2 == 0;
        }
        if (member.keyBias) call[Tensor::key_bias] = operand(Type::float32, {either(batch), either(heads), keys});
        check(call);
        Alone alone;
        cpu::attention(call, member, static_cast<cpu::Skipping>(random() % 3), alone);
    }
};

void rounds(uint64_t seed, long count) {
    for (long i = 0; i < count; ++i) {
        Case one;
        one.random.seed(seed + static_cast<uint64_t>(i));
        one.run();
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    int const failed = alibiSelfTest();
    if (failed != 0) return 10 + failed;
    for (char const* name : {"avx512", "avx2", "portable"}) {
        if (!cpu::useInstructionSet(name)) continue;
        auto const seed = static_cast<uint64_t>(std::atoll(argv[1]));
        std::thread other(rounds, seed + 100000, std::atol(argv[2]));
        rounds(seed, std::atol(argv[2]));
        other.join();
    }
    return 0;
}
