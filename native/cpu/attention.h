// The fused node on the CPU, for every member of the family, type and shape that the specification allows.
#pragma once

#include <string_view>

#include "core/node.h"

namespace alibi::cpu {

// What may be left out.  `underflow` changes no bit of the result unless `value` holds NaN or infinity.
enum class Skipping : uint8_t {
    none,
    underflow,  // keys whose weight is 0 in float32 for every row of a tile
    certified,  // and those that together are proven to weigh less than 2^-24 of their row
};

// Runs a task for 0 .. count - 1, on as many threads as there are.
class Threads {
public:
    virtual void run(int64_t count, void (*task)(void* context, size_t index), void* context) = 0;

protected:
    ~Threads() = default;
};

// Computes `call`, whose operands have their addresses.  Throws std::bad_alloc.
void attention(Call const& call, Member const& member, Skipping skipping, Threads& threads);

// The instruction set that is used on this machine: "avx512", "avx2" or "portable".
char const* instructionSet();

// Uses another one from now on, for tests; false if this machine does not have it.
bool useInstructionSet(std::string_view name);

}  // namespace alibi::cpu
