// The fused nodes on onnxruntime's CUDA provider: our kernels on its stream, with scratch from its allocator.
//
// Nothing waits for the GPU and nothing is allocated but through onnxruntime, so that runs can be captured into CUDA
// graphs.  A kernel holds nothing of a call: onnxruntime may run one session from many threads at once.
#include <mutex>
#include <stdexcept>

#include "cuda/kernels.h"
#include "onnxruntime/op.h"
#include "onnxruntime/scratch.h"

namespace alibi::ort {
namespace {

constexpr char const* kCure =
    ". Attach them with `rewrite MODEL --embed-kernels`, or make the session with alibi_rewriter.InferenceSession, "
    "which compiles them for the GPU that is here";

[[noreturn]] void refuse(Op const& op, std::string const& what) { throw std::runtime_error(op.member->opType + ": " + what); }

void expectKernels(Op const& op, Node const& node) {
    if (!node.bundle) refuse(op, std::string("no kernels are attached to this node") + kCure);
    Type const mask = op.maskType == kUndefined ? Type::none : typeOf(op.maskType);
    if (node.bundle->dtype != typeOf(op.type) || node.bundle->maskType != mask) {
        refuse(op, "the attached kernels were compiled for other types than its inputs have" + std::string(kCure));
    }
}

class CudaKernel {
public:
    CudaKernel(Op const& op, Api const* api, KernelInfo const* info) : table_(api) {
        Given const given(table_, info, true);
        node_ = Node::of(*op.member, given.attributes);
        expectKernels(op, *node_);
        // Sessions are made with the provider's device current.  Should that change, the first call loads.
        if (currentContext() != nullptr) loaded_ = cuda::load(*node_);
        table_.call(kKernelInfoGetAllocator, info, kDefaultMemory, &allocator_);
    }
    CudaKernel(CudaKernel const&) = delete;
    ~CudaKernel() { table_.release(kReleaseAllocator, allocator_); }

    Status* compute(KernelContext* context) noexcept {
        return table_.guarded(kFail, [&] {
            Call const call = bind(table_, *node_, context);
            std::shared_ptr<cuda::Kernels const> const kernels = here();
            CurrentContext const current(kernels->device.context);
            Plan const plan = cuda::plan(*node_, *kernels, call);
            void* stream = nullptr;
            table_.call(kGetGpuComputeStream, static_cast<KernelContext const*>(context), &stream);
            Scratch const scratch(table_, context, allocator_, plan.workspaceBytes);
            cuda::enqueue(*kernels, plan, call, scratch.data(), stream);
        });
    }

private:
    // The kernels in the context of the calling thread; a thread that has none gets that of the last one.
    std::shared_ptr<cuda::Kernels const> here() {
        void* const context = currentContext();
        std::lock_guard<std::mutex> const lock(mutex_);
        if (!loaded_ || (context != nullptr && loaded_->device.context != context)) loaded_ = cuda::load(*node_);
        return loaded_;
    }

    Table table_;
    std::shared_ptr<Node const> node_;
    Allocator* allocator_ = nullptr;
    std::mutex mutex_;
    std::shared_ptr<cuda::Kernels const> loaded_;
    Claim claim_;
};

std::unique_ptr<Op> makeCudaOp(Member const&) {
    auto op = std::make_unique<Op>();
    op->provider = [](CustomOp const*) { return "CUDAExecutionProvider"; };
    op->createKernelV2 = [](CustomOp const* given, Api const* api, KernelInfo const* info, void** kernel) {
        return Table(api).guarded(kInvalidArgument, [&] { *kernel = new CudaKernel(self(given), api, info); });
    };
    op->computeV2 = [](void* kernel, KernelContext* context) { return static_cast<CudaKernel*>(kernel)->compute(context); };
    op->destroy = [](void* kernel) { delete static_cast<CudaKernel*>(kernel); };
    return op;
}

}  // namespace

Ops const* cudaOps() {
    // Without a driver no GPU is there, and onnxruntime has no use for what it could not run.
    static auto const* const made = driverPresent() ? new Ops(makeOps(makeCudaOp)) : nullptr;
    return made;
}

}  // namespace alibi::ort
