// Drives the custom ops for onnxruntime's CUDA provider without onnxruntime and without a GPU.
//
//     cuda_host LIBRARY BUNDLE       with the stub as libcuda.so.1: everything that can be seen from outside
//     cuda_host LIBRARY BUNDLE none  with no libcuda.so.1: nothing is registered for CUDA
//     cuda_host LIBRARY BUNDLE arch  on a GPU that no attached kernel runs on
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "stub_driver.h"
#include "stub_runtime.h"

namespace {

int failures = 0;
char const* const kOp = "AlibiAttentionCausal";

void expect(bool condition, char const* what) {
    if (condition) return;
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
}

CustomOp const* onGpu(char const* name = kOp, int32_t type = kBFloat16) { return op(name, "CUDAExecutionProvider", type); }

Value tensor(int32_t type, std::vector<int64_t> extents, size_t offset = 0) {
    return {{type, std::move(extents), {}}, std::vector<char>(128), offset};
}

KernelContext call(int64_t batch, int64_t heads, int64_t rows, int64_t keys, int64_t width = 64) {
    KernelContext made;
    made.inputs = {tensor(kBFloat16, {batch, heads, rows, width}), tensor(kBFloat16, {batch, heads, keys, width}),
                   tensor(kBFloat16, {batch, heads, keys, width}), tensor(kFloat, {heads})};
    return made;
}

bool has(std::string const& text, char const* part) { return text.find(part) != std::string::npos; }

StubCounts (*counts)() = nullptr;
void (*reset)() = nullptr;
void (*setContext)(void*) = nullptr;

void computes(KernelInfo const& info) {
    int64_t const before = counts().loads;
    Kernel const kernel(onGpu(), info);
    expect(kernel.message.empty(), kernel.message.c_str());
    expect(counts().loads > before, "images are loaded when the session is made");
    reset();
    KernelContext prefill = call(2, 4, 300, 300);
    expect(kernel.run(prefill).empty(), "prefill runs");
    expect(counts().launches == 1 && counts().onStream == 1 && prefill.scratch == 0, "one launch, on the stream, no scratch");
    expect(prefill.output.info.extents == std::vector<int64_t>({2, 4, 300, 64}), "the output has the query's extents");
    KernelContext decode = call(1, 4, 1, 8192);
    expect(kernel.run(decode).empty(), "decode runs");
    expect(counts().launches == 3 && counts().onStream == 3 && decode.scratch > 0, "a split decode: two launches and scratch");
    KernelContext empty = call(2, 4, 3, 0);
    expect(kernel.run(empty).empty() && counts().fills == 1, "an output over no keys becomes zeros");
    KernelContext nothing = call(0, 4, 3, 3);
    expect(kernel.run(nothing).empty() && counts().fills == 1 && counts().launches == 3, "and without elements nothing runs");
    expect(counts().loads == 0, "nothing is loaded by a call");
}

// A node of views: of tensors of rank 4, rows and features cut out, in an order of axes.
KernelInfo viewed(KernelInfo info, std::vector<int64_t> const& starts, std::vector<int64_t> const& perm) {
    info.texts["layout"] = "views";
    for (char const* name : {"query", "key", "value"}) {
        std::string const operand = name;
        info.numbers[operand + "_shape"] = {0, 0, 0, 0};
        info.numbers[operand + "_starts"] = starts;
        info.numbers[operand + "_ends"] = {INT32_MAX, starts[1] + 64};
        info.numbers[operand + "_perm"] = perm;
    }
    info.numbers["output_perm"] = {0, 2, 1, 3};
    info.numbers["output_shape"] = {0, 0, 4 * 64};
    return info;
}

void views(KernelInfo const& info) {
    auto const address = [](KernelContext const& context) { return reinterpret_cast<uint64_t>(context.inputs[0].bytes.data()); };
    KernelInfo plain = viewed(info, {2, 0}, {0, 1, 2, 3});
    plain.numbers["output_perm"] = {0, 1, 2, 3};
    plain.numbers["output_shape"] = {0, 0, 0, 0};
    Kernel const later(onGpu(), plain);
    expect(later.message.empty(), later.message.c_str());
    reset();
    KernelContext rows = call(2, 4, 302, 302);
    expect(later.run(rows).empty() && rows.output.info.extents == std::vector<int64_t>({2, 4, 300, 64}), "rows are cut off");
    expect(counts().mapped == address(rows) + 2 * 64 * 2 && counts().headBytes == 302 * 64 * 2, "what is copied begins there");
    Kernel const turned(onGpu(), viewed(info, {0, 0}, {0, 2, 1, 3}));
    KernelContext heads = call(2, 300, 4, 4);
    for (int i = 1; i < 3; ++i) heads.inputs[static_cast<size_t>(i)] = tensor(kBFloat16, {2, 300, 4, 64});
    heads.inputs[3] = tensor(kFloat, {4});
    expect(turned.run(heads) == "", "strides have kernels");
    expect(heads.output.info.extents == std::vector<int64_t>({2, 300, 256}), "the output has rank 3");
    heads.inputs[0].info.extents = {2, 300, 256};
    expect(has(turned.run(heads), "query has 3 dimensions instead of 4"), "another rank");
    KernelContext aside = call(2, 300, 4, 4, 72);
    for (int i = 1; i < 3; ++i) aside.inputs[static_cast<size_t>(i)] = tensor(kBFloat16, {2, 300, 4, 72});
    aside.inputs[3] = tensor(kFloat, {4});
    expect(Kernel(onGpu(), viewed(info, {0, 8}, {0, 2, 1, 3})).run(aside).empty(), "16 bytes aside");
    KernelInfo merged = viewed(info, {0, 0}, {0, 2, 1, 3});
    merged.numbers["output_shape"] = {0, 0, 4 * 64 + 1};
    expect(has(Kernel(onGpu(), merged).run(heads), "dimensions"), "before the width");
    heads.inputs[0].info.extents = {2, 300, 4, 64};
    expect(has(Kernel(onGpu(), merged).run(heads), "output: its last dimension is 256 and was to be 257"), "another width");
    merged.numbers.erase("key_ends");
    expect(has(Kernel(onGpu(), merged).message, "attribute 'key_ends' is missing"), "a missing attribute");
}

void concurrent(KernelInfo const& info) {
    Kernel const kernel(onGpu(), info);
    reset();
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int64_t number = 0; number < 4; ++number) {
        threads.emplace_back([&, number] {
            if (number % 2 == 0) setContext(&stream);  // the others have none: a kernel's own is used
            for (int64_t i = 0; i < 100; ++i) {
                KernelContext given = i % 2 == 0 ? call(1, 4, 1, 4096 + 64 * number) : call(1, 4, 64 + i, 64 + i);
                if (!kernel.run(given).empty()) ++wrong;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    expect(wrong == 0, "concurrent runs succeed, also without a current context");
    expect(counts().launches == 4 * (50 * 2 + 50) && counts().loads == 0, "every run launches its own kernels");
}

void later(KernelInfo const& info) {
    setContext(nullptr);
    Kernel const kernel(onGpu(), info);
    expect(kernel.message.empty(), "a session may be made without a current context");
    KernelContext given = call(1, 4, 64, 64);
    expect(has(kernel.run(given), "no CUDA context is current"), "a run without any is refused");
    char other = 0;
    for (void* context : {static_cast<void*>(&stream), static_cast<void*>(&other)}) {
        setContext(context);
        reset();
        expect(kernel.run(given).empty() && counts().loads > 0, "a context gets its own images, once");
        expect(kernel.run(given).empty() && counts().launches == 2, "and keeps them");
    }
    setContext(&stream);
}

void refusals(KernelInfo const& info) {
    KernelInfo given = info;
    given.texts.erase("kernels");
    Kernel const bare(onGpu(), given);
    expect(has(bare.message, "no kernels are attached") && has(bare.message, "rewrite MODEL --embed-kernels"), "no kernels");
    given = info;
    given.texts["kernels"].resize(given.texts["kernels"].size() / 2);
    expect(has(Kernel(onGpu(), given).message, kOp), "half a bundle");
    given.texts["kernels"] = info.texts.at("kernels");
    given.texts["kernels"][given.texts["kernels"].size() / 2] ^= 1;
    expect(!Kernel(onGpu(), given).message.empty(), "a damaged bundle");
    expect(has(Kernel(onGpu("AlibiAttentionLinear"), info).message, "kernels are for AlibiAttentionCausal"), "another member");
    expect(has(Kernel(onGpu(kOp, kFloat16), info).message, "compiled for other types"), "another type");
    given.texts.erase("kernels");
    expect(has(Kernel(onGpu("AlibiAttentionCausalWindow"), given).message, "no kernels are attached"), "a window without");
    Kernel const kernel(onGpu(), info);
    KernelContext wide = call(1, 4, 64, 64, 72);
    expect(has(kernel.run(wide), "query is 72 wide"), "another head size");
    KernelContext flat = call(1, 4, 64, 64);
    flat.inputs[1].info.extents = {4, 64, 64};
    expect(has(kernel.run(flat), "key has 3 dimensions"), "another rank");
}

}  // namespace

int main(int, char** arguments) {
    void* const library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 2;
    auto const add = reinterpret_cast<Status* (*)(SessionOptions*, ApiBase const*)>(dlsym(library, "RegisterCustomOps"));
    ApiBase const base{table, version};
    expect(spent(add(nullptr, &base)).empty(), "it registers");
    std::string const mode = arguments[3] == nullptr ? "" : arguments[3];
    expect((onGpu() != nullptr) == (mode != "none"), "CUDA kernels are registered where there is a driver");
    expect(op(kOp, "CPUExecutionProvider", kBFloat16) != nullptr, "CPU kernels always are");
    if (mode == "none") return failures;
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    counts = reinterpret_cast<StubCounts (*)()>(dlsym(driver, "stubCounts"));
    reset = reinterpret_cast<void (*)()>(dlsym(driver, "stubReset"));
    setContext = reinterpret_cast<void (*)(void*)>(dlsym(driver, "stubContext"));
    setContext(&stream);
    std::ifstream file(arguments[2], std::ios::binary);
    KernelInfo info;
    info.texts = {{"layout", "BHSD"}, {"empty_rows", "mean"}, {"kernels", {std::istreambuf_iterator<char>(file), {}}}};
    if (mode == "arch") {
        expect(has(Kernel(onGpu(), info).message, "no attached kernel runs on compute capability 7.5"), "another GPU");
    } else {
        computes(info);
        views(info);
        concurrent(info);
        later(info);
        refusals(info);
    }
    expect(counts().modules == 0, "every module is unloaded");
    expect(infos == 0 && allocators == 0 && scratch == 0, "what was lent is given back");
    dlclose(driver);
    return failures;
}
