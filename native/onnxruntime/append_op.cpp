// AlibiCacheAppend on both providers.  Where a caller binds past and present to the same memory, only new rows are written.
#include <array>
#include <mutex>
#include <stdexcept>

#include "core/append.h"
#include "cpu/append.h"
#include "cuda/append.h"
#include "cuda/driver.h"
#include "onnxruntime/op.h"

namespace alibi::ort {
namespace {

constexpr size_t kInputs = 5;
constexpr size_t kLengths = 4;

AppendNode nodeOf(Table const& table, KernelInfo const* info) {
    Given const given(table, info, false);
    return AppendNode::of(std::string(given.attributes.layout), given.attributes.views);
}

AppendCall bindAppend(Table const& table, AppendNode const& node, KernelContext* context) {
    std::array<Described, kInputs> given;
    std::array<void*, kInputs> data{};
    for (size_t i = 0; i < kInputs; ++i) {
        Value const* value = nullptr;
        table.call(kGetInput, static_cast<KernelContext const*>(context), i, &value);
        Input const input = read(table, value);
        given[i] = input.described;
        data[i] = input.data;
    }
    AppendCall call = node.call(given, data);
    for (size_t i = 0; i < call.both.size(); ++i) {
        Value* made = nullptr;
        void* target = nullptr;
        table.call(kGetOutput, context, i, static_cast<int64_t const*>(given[i].extents.data()), size_t{4}, &made);
        table.call(kGetTensorMutableData, made, &target);
        call.both[i].present = static_cast<char*>(target);
    }
    return call;
}

class CpuAppend {
public:
    CpuAppend(Api const* api, KernelInfo const* info) : table_(api), node_(nodeOf(table_, info)) {}
    Status* compute(KernelContext* context) const noexcept {
        return table_.guarded(kInvalidArgument, [&] { cpu::append(bindAppend(table_, node_, context)); });
    }

private:
    Table table_;
    AppendNode node_;
};

class CudaAppend {
public:
    CudaAppend(Api const* api, KernelInfo const* info) : table_(api), node_(nodeOf(table_, info)) {
        if (currentContext() != nullptr) here();  // a stream capture forbids to load later
    }
    Status* compute(KernelContext* context) noexcept {
        return table_.guarded(kFail, [&] {
            AppendCall const call = bindAppend(table_, node_, context);
            std::shared_ptr<Program const> const kernels = here();
            void* stream = nullptr;
            table_.call(kGetGpuComputeStream, static_cast<KernelContext const*>(context), &stream);
            cuda::append(*kernels, call, stream);
        });
    }

private:
    std::shared_ptr<Program const> here() {
        void* const context = currentContext();
        std::lock_guard<std::mutex> const lock(mutex_);
        if (!loaded_ || (context != nullptr && contextOf(*loaded_) != context)) loaded_ = cuda::loadAppend();
        return loaded_;
    }

    Table table_;
    AppendNode node_;
    std::mutex mutex_;
    std::shared_ptr<Program const> loaded_;
};

struct AppendOp : CustomOp {
    ElementType type = kUndefined;
};

ElementType typeOfOp(CustomOp const* op) { return static_cast<AppendOp const*>(op)->type; }

// Output i may take the memory of input i.
size_t mayInplace(int32_t** inputs, int32_t** outputs) {
    *inputs = new int32_t[2]{0, 1};
    *outputs = new int32_t[2]{0, 1};
    return 2;
}

void releaseMayInplace(int32_t* inputs, int32_t* outputs) {
    delete[] inputs;
    delete[] outputs;
}

template <typename Kernel>
AppendOp* makeAppendOp(ElementType type, char const* (*provider)(CustomOp const*)) {
    auto* const op = new AppendOp();  // never destroyed: sessions keep pointers to ops
    op->type = type;
    op->provider = provider;
    op->name = [](CustomOp const*) { return kAppendOp; };
    op->inputCount = [](CustomOp const*) { return kInputs; };
    op->inputType = [](CustomOp const* given, size_t i) -> int32_t { return i == kLengths ? kInt64 : typeOfOp(given); };
    op->outputCount = [](CustomOp const*) -> size_t { return 2; };
    op->outputType = [](CustomOp const* given, size_t) -> int32_t { return typeOfOp(given); };
    setDefaults(*op);
    op->mayInplace = mayInplace;
    op->releaseMayInplace = releaseMayInplace;
    op->createKernelV2 = [](CustomOp const*, Api const* api, KernelInfo const* info, void** kernel) {
        return Table(api).guarded(kInvalidArgument, [&] { *kernel = new Kernel(api, info); });
    };
    op->computeV2 = [](void* kernel, KernelContext* context) { return static_cast<Kernel*>(kernel)->compute(context); };
    op->destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    return op;
}

template <typename Kernel>
CustomOps makeAppendOps(char const* (*provider)(CustomOp const*)) {
    CustomOps made;
    for (ElementType type : {kFloat, kFloat16, kBFloat16}) made.push_back(makeAppendOp<Kernel>(type, provider));
    return made;
}

}  // namespace

CustomOps const& cpuAppendOps() {
    static auto const* const made =
        new CustomOps(makeAppendOps<CpuAppend>([](CustomOp const*) { return "CPUExecutionProvider"; }));
    return *made;
}

CustomOps const* cudaAppendOps() {
    static auto const* const made = driverPresent()
        ? new CustomOps(makeAppendOps<CudaAppend>([](CustomOp const*) { return "CUDAExecutionProvider"; }))
        : nullptr;
    return made;
}

}  // namespace alibi::ort
