#include "cuda/kernels.h"

#include <stdexcept>

namespace alibi::cuda {
namespace {

void zeroOutput(Call const& call, void* stream) {
    Operand const& output = call[Tensor::output];
    int64_t bytes = elementBytes(output.type);
    for (int64_t extent : output.shape) bytes *= extent;  // cannot overflow: `describe` bounds it
    if (bytes > 0) fillZero(const_cast<void*>(output.pointer), static_cast<size_t>(bytes), stream);
}

}  // namespace

std::shared_ptr<Kernels const> load(Node const& node) {
    auto made = std::make_shared<Kernels>();
    made->device = currentDevice();
    made->service = node.bundle->serve(made->device.arch);
    made->images = loadImages(node.bundle, made->service, made->device.context);
    return made;
}

Plan plan(Node const& node, Kernels const& kernels, Call const& call, int32_t alternative) {
    return makePlan(*node.bundle, call, {kernels.service, kernels.device.multiprocessors}, alternative);
}

void enqueue(Kernels const& kernels, Plan const& plan, Call const& call, void* workspace, void* stream) {
    if (plan.empty) return zeroOutput(call, stream);
    if (plan.workspaceBytes > 0 && workspace == nullptr) {
        throw std::runtime_error("workspace is needed and was not given");
    }
    launch(*kernels.images, plan, call, workspace, stream);
}

}  // namespace alibi::cuda
