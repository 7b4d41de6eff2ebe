// Runs collectives in place of onnxruntime and without a GPU, for tests/runtime/ranks.py: a library for ctypes.
#include <dlfcn.h>

#include "stub_runtime.h"

namespace {

struct Given {
    char const* library;
    char const* op;
    char const* provider;
    int32_t type;
    int32_t device;      // that the session is on; -1: no context is current
    int64_t group;       // 0: the node does not say it
    int64_t axis;
    int64_t const* extents;
    size_t rank;
    void const* from;
    size_t bytes;
};

struct Made {
    int64_t* extents;
    void* to;
    size_t room;
    char* message;  // what failed; empty if nothing did
    size_t messageRoom;
};

void tell(Made const& made, std::string const& text) { made.message[text.copy(made.message, made.messageRoom - 1)] = '\0'; }

std::string registerOps(char const* path) {
    if (!registered.empty()) return "";
    void* const library = dlopen(path, RTLD_NOW);
    if (library == nullptr) return dlerror();
    auto const add = reinterpret_cast<Status* (*)(SessionOptions*, ApiBase const*)>(dlsym(library, "RegisterCustomOps"));
    ApiBase const base{table, version};
    return spent(add(nullptr, &base));
}

void makeCurrent(int32_t device) {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == nullptr) return;
    void* context = nullptr;
    auto const primary = reinterpret_cast<int (*)(void**, int)>(dlsym(driver, "cuDevicePrimaryCtxRetain"));
    if (device >= 0) primary(&context, device);
    reinterpret_cast<void (*)(void*)>(dlsym(driver, "stubContext"))(context);
}

KernelInfo infoOf(Given const& given) {
    KernelInfo info;
    info.numbers["axis"] = {given.axis};
    if (given.group != 0) info.numbers["group_size"] = {given.group};
    return info;
}

std::string run(Given const& given, Made const& made) {
    std::string const problem = registerOps(given.library);
    if (!problem.empty()) return problem;
    CustomOp const* const found = op(given.op, given.provider, given.type);
    if (found == nullptr) return "there is no such op";
    makeCurrent(given.device);
    Kernel const kernel(found, infoOf(given));
    if (!kernel.message.empty()) return kernel.message;
    KernelContext context;
    context.inputs.push_back({{given.type, {given.extents, given.extents + given.rank}, {}}, {}});
    auto const* const bytes = static_cast<char const*>(given.from);
    context.inputs[0].bytes.assign(bytes, bytes + given.bytes);
    context.inputs[0].bytes.resize(given.bytes + 64);
    std::string const failed = kernel.run(context);
    if (!failed.empty()) return failed;
    std::copy(context.output.info.extents.begin(), context.output.info.extents.end(), made.extents);
    std::memcpy(made.to, context.output.bytes.data(), made.room);
    return "";
}

std::string infer(Given const& given, Made const& made) {
    std::string const problem = registerOps(given.library);
    if (!problem.empty()) return problem;
    CustomOp const* const found = op(given.op, given.provider, given.type);
    ShapeContext context{{given.type, {given.extents, given.extents + given.rank}, {}}, {{"axis", {given.axis}}}, {}};
    context.numbers["group_size"] = {given.group};
    for (int64_t const extent : context.input.extents) context.input.names.push_back(extent < 0 ? "N" : "");
    std::string const failed = spent(found->inferShape(found, &context));
    if (failed.empty() && context.output.extents.size() != given.rank) return "nothing is inferred";
    std::copy(context.output.extents.begin(), context.output.extents.end(), made.extents);
    return failed;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void hostRun(Given const* given, Made const* made) {
    tell(*made, run(*given, *made));
    if (infos != 0 || allocators != 0 || scratch != 0) tell(*made, "something that was lent is not given back");
}
extern "C" __attribute__((visibility("default"))) void hostInfer(Given const* given, Made const* made) {
    tell(*made, infer(*given, *made));
    if (infos != 0) tell(*made, "something that was lent is not given back");
}
