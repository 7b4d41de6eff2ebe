// The fused nodes on the CPU, on the threads of onnxruntime's own pool.
#include <array>

#include "onnxruntime/op.h"

namespace alibi::ort {
namespace {

class Pool final : public cpu::Threads {
public:
    Pool(Table const& table, KernelContext const* context) : table_(table), context_(context) {}

    void run(int64_t count, void (*task)(void*, size_t), void* context) override {
        if (count == 1) return task(context, 0);
        table_.call(kParallelFor, context_, task, static_cast<size_t>(count), size_t{0}, context);
    }

private:
    Table const& table_;
    KernelContext const* context_;
};

class CpuKernel {
public:
    CpuKernel(Op const& op, Api const* api, KernelInfo const* info) : table_(api), skipping_(op.skipping) {
        Given const given(table_, info, false);
        node_ = Node::of(*op.member, given.attributes);
    }
    CpuKernel(CpuKernel const&) = delete;

    Status* compute(KernelContext* context) const noexcept {
        return table_.guarded(kInvalidArgument, [&] {
            Call const call = bind(table_, *node_, context);
            Pool pool(table_, context);
            cpu::attention(call, *node_->member, skipping_, pool);
        });
    }

private:
    Table table_;
    cpu::Skipping skipping_;
    std::shared_ptr<Node const> node_;
    Claim claim_;
};

std::unique_ptr<Op> makeCpuOp(cpu::Skipping skipping) {
    auto op = std::make_unique<Op>();
    op->skipping = skipping;
    op->provider = [](CustomOp const*) { return "CPUExecutionProvider"; };
    op->createKernelV2 = [](CustomOp const* given, Api const* api, KernelInfo const* info, void** kernel) {
        return Table(api).guarded(kInvalidArgument, [&] { *kernel = new CpuKernel(self(given), api, info); });
    };
    op->computeV2 = [](void* kernel, KernelContext* context) { return static_cast<CpuKernel*>(kernel)->compute(context); };
    op->destroy = [](void* kernel) { delete static_cast<CpuKernel*>(kernel); };
    return op;
}

}  // namespace

Ops const& cpuOps(cpu::Skipping skipping) {
    using cpu::Skipping;
    auto const all = [](Skipping how) { return makeOps([how](Member const&) { return makeCpuOp(how); }); };
    // Sessions keep pointers to ops, and may outlive the static objects of this library.
    static auto const* const made =
        new std::array<Ops, 3>{all(Skipping::none), all(Skipping::underflow), all(Skipping::certified)};
    return (*made)[static_cast<size_t>(skipping)];
}

}  // namespace alibi::ort
