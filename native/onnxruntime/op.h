// The fused nodes as custom ops of onnxruntime.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/node.h"
#include "cpu/attention.h"
#include "onnxruntime/abi.h"
#include "onnxruntime/table.h"

namespace alibi::ort {

// onnxruntime tells ops of one name apart by their types, so there is one for each combination.
struct Op : CustomOp {
    Member const* member = nullptr;
    ElementType type = kUndefined;      // of query, key, value and the output
    ElementType maskType = kUndefined;  // kUndefined without a mask
    cpu::Skipping skipping = cpu::Skipping::underflow;
};

inline Op const& self(CustomOp const* op) { return *static_cast<Op const*>(op); }

using Ops = std::vector<std::unique_ptr<Op>>;

// Every member in every combination of types; `make` gives what is the provider's own.
Ops makeOps(std::function<std::unique_ptr<Op>(Member const&)> const& make);

// Ops besides the family.  Sessions keep pointers to ops, so none is ever destroyed.
using CustomOps = std::vector<CustomOp const*>;

// AlibiCacheAppend on the CPU, and on the CUDA provider; the latter null without a CUDA driver.
CustomOps const& cpuAppendOps();
CustomOps const* cudaAppendOps();

// What is the same for all ops: every input and output is required, one tensor, in the provider's memory.
void setDefaults(CustomOp& op);

// The family on the CPU.  Made once for each way of skipping, never destroyed.
Ops const& cpuOps(cpu::Skipping skipping);

// The family on onnxruntime's CUDA provider.  Made once, never destroyed; null without a CUDA driver.
Ops const* cudaOps();

// The attributes of a node; everything that a kernel needs to know about it.
struct Given {
    Given(Table const& table, KernelInfo const* info, bool withKernels);
    Attributes attributes;

private:
    std::string emptyRows_;
    std::string layout_;
    std::string rows_;
    std::string kernels_;
};

// A tensor of a call with its address.
struct Input {
    Described described;
    void* data = nullptr;
};
Input read(Table const& table, Value const* value);

// The inputs of a call, its output made, and the operands of both.
Call bind(Table const& table, Node const& node, KernelContext* context);

Type typeOf(int32_t element);

// How many nodes the calling thread has made kernels for.  onnxruntime makes some and drops them again while it makes a
// session: what is destroyed before the next reading is not counted.  Later ends, of other sessions, change nothing.
int64_t claimedHere();

// A node that a kernel is there for, as long as the kernel is.
class Claim {
public:
    Claim();
    Claim(Claim const&) = delete;
    Claim& operator=(Claim const&) = delete;
    ~Claim();

private:
    int64_t reading_;
};

}  // namespace alibi::ort
