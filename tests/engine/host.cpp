// Drives the plugin library through its own interface, as TensorRT would, without TensorRT.
//
// As a program: the whole life of a plugin on the CPU, good input and bad, for valgrind and the sanitizers.
// As a shared library: the functions at the end, which Python tests call with device memory of their own.
#include <array>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/view.h"
#include "tensorrt/abi.h"

namespace abi = alibi::abi;

namespace {

struct Recorder final : abi::Logger, abi::LoggerFinder {
    std::string last;
    void log(int32_t severity, char const* message) noexcept override { last = std::to_string(severity) + " " + message; }
    abi::Logger* find() override { return this; }
};

Recorder recorder;

struct Library {
    void* handle = nullptr;
    abi::Versioned* const* creators = nullptr;
    int32_t count = 0;

    explicit Library(char const* path) {
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            std::fprintf(stderr, "%s\n", dlerror());
            return;
        }
        auto const find = reinterpret_cast<abi::Versioned* const* (*) (int32_t&)>(dlsym(handle, "getCreators"));
        auto const setFinder = reinterpret_cast<void (*)(abi::LoggerFinder*)>(dlsym(handle, "setLoggerFinder"));
        setFinder(&recorder);
        creators = find(count);
    }

    abi::Creator* creator(char const* opType) const {
        for (int32_t i = 0; i < count; ++i) {
            auto* const found = static_cast<abi::Creator*>(creators[i]);
            if (std::strcmp(found->pluginName(), opType) == 0) return found;
        }
        return nullptr;
    }
};

struct Attributes {
    float scale;
    std::string emptyRows;
    std::string layout;
    std::string kernels;
    std::array<int32_t, 2> window;
    std::vector<std::vector<int32_t>> views;
    std::vector<abi::Field> fields;
    abi::Fields collection{};

    Attributes(float scale_, std::string emptyRows_, std::string layout_, std::string kernels_,
               std::array<int32_t, 2> window_ = {-1, -1})
        : scale(scale_), emptyRows(std::move(emptyRows_)), layout(std::move(layout_)), kernels(std::move(kernels_)),
          window(window_) {
        fields = {
            {"scale", &scale, abi::kFieldFloat32, 1},
            {"empty_rows", emptyRows.c_str(), abi::kFieldChar, static_cast<int32_t>(emptyRows.size() + 1)},
            {"layout", layout.c_str(), abi::kFieldChar, static_cast<int32_t>(layout.size() + 1)},
            // TensorRT's parser hands strings over with a NUL behind them.
            {"kernels", kernels.c_str(), abi::kFieldChar, static_cast<int32_t>(kernels.size() + 1)},
            {"window_left", &window[0], abi::kFieldInt32, 1},
            {"window_right", &window[1], abi::kFieldInt32, 1},
        };
        collection = {static_cast<int32_t>(fields.size()), fields.data()};
    }
    Attributes(Attributes const&) = delete;

    // The attributes of views, in the order of alibi::kViewAttributes; those without numbers are left out.
    Attributes& viewed(std::vector<std::vector<int32_t>> numbers) {
        views = std::move(numbers);
        for (size_t i = 0; i < views.size(); ++i) {
            if (views[i].empty()) continue;
            fields.push_back({alibi::kViewAttributes[i], views[i].data(), abi::kFieldInt32, static_cast<int32_t>(views[i].size())});
        }
        collection = {static_cast<int32_t>(fields.size()), fields.data()};
        return *this;
    }

    abi::Fields const* given() const { return &collection; }
};

abi::Build* build(abi::Plugin* plugin) { return static_cast<abi::Build*>(plugin->capability(abi::kBuild)); }
abi::Core* core(abi::Plugin* plugin) { return static_cast<abi::Core*>(plugin->capability(abi::kCore)); }
abi::Runtime* runtime(abi::Plugin* plugin) { return static_cast<abi::Runtime*>(plugin->capability(abi::kRuntime)); }

// A plugin as it runs in an engine: built, stored, made again from what was stored, attached to a context.
struct Instance {
    std::unique_ptr<abi::Plugin> restored;
    std::unique_ptr<abi::Plugin> attached;
};

int failures = 0;

void expect(bool condition, char const* what) {
    if (condition) return;
    ++failures;
    std::fprintf(stderr, "FAILED: %s (last message: %s)\n", what, recorder.last.c_str());
}

abi::TensorDesc tensor(int32_t type, std::vector<int64_t> const& dims) {
    abi::TensorDesc desc{};
    desc.dims.rank = static_cast<int32_t>(dims.size());
    for (size_t i = 0; i < dims.size(); ++i) desc.dims.d[i] = dims[i];
    desc.type = type;
    desc.format = abi::kLinear;
    return desc;
}

abi::DynamicTensorDesc dynamic(abi::TensorDesc const& most) {
    abi::DynamicTensorDesc found{};
    found.desc = most;
    found.min = found.max = found.opt = most.dims;
    for (int32_t i = 0; i < most.dims.rank; ++i) found.min.d[i] = 1;
    return found;
}

void lifecycle(Library const& library, char const* opType, std::string const& kernels, int32_t dtype, int64_t width) {
    abi::Creator* const maker = library.creator(opType);
    expect(maker != nullptr, "the creator is there");
    if (maker == nullptr) return;
    expect(std::strcmp(maker->pluginVersion(), "1") == 0 && std::strcmp(maker->pluginNamespace(), "alibi") == 0, "name");
    expect(maker->fieldNames()->count == 18, "declared fields");
    Attributes const attributes(0.125F, "zero", "BHSD", kernels);
    std::unique_ptr<abi::Plugin> plugin(maker->create("layer", &attributes.collection, abi::kBuilding));
    expect(plugin != nullptr, "created");
    if (!plugin) return;
    expect(std::strcmp(core(plugin.get())->pluginName(), opType) == 0, "it knows its name");
    expect(plugin->capability(7) == nullptr, "no other capability");
    expect(build(plugin.get())->outputCount() == 1, "one output");

    // query, key, value, slopes; the members that this is called for have no more inputs.
    std::vector<abi::TensorDesc> in = {tensor(dtype, {2, 4, 300, width}), tensor(dtype, {2, 2, 500, width}),
                                       tensor(dtype, {2, 2, 500, width}), tensor(abi::kFloat, {4})};
    abi::TensorDesc const out = tensor(dtype, {2, 4, 300, width});
    std::vector<abi::DynamicTensorDesc> all;
    for (auto const& desc : in) all.push_back(dynamic(desc));
    all.push_back(dynamic(out));
    int32_t types[1] = {-1};
    int32_t const inTypes[4] = {dtype, dtype, dtype, abi::kFloat};
    expect(build(plugin.get())->outputTypes(types, 1, inTypes, 4) == 0 && types[0] == dtype, "output type");
    expect(build(plugin.get())->outputTypes(types, 1, inTypes, 3) != 0, "a wrong number of inputs is refused");
    int symbols[16];
    abi::DimsExprs exprs[4]{};
    for (int input = 0; input < 3; ++input) {
        exprs[input].rank = 4;
        for (int axis = 0; axis < 4; ++axis) exprs[input].d[axis] = &symbols[4 * input + axis];
    }
    exprs[3].rank = 1;
    abi::DimsExprs shape{};
    expect(build(plugin.get())->outputShapes(exprs, 4, nullptr, 0, &shape, 1, nullptr) == 0, "output shape");
    expect(shape.rank == 4 && shape.d[0] == &symbols[0] && shape.d[2] == &symbols[2] && shape.d[3] == &symbols[11],
           "[B, H, S_q of the query, D_v of the value]");
    exprs[0].rank = 3;
    expect(build(plugin.get())->outputShapes(exprs, 4, nullptr, 0, &shape, 1, nullptr) != 0, "rank 3 is refused");
    for (int32_t position = 0; position < 5; ++position) {
        expect(build(plugin.get())->supportsFormat(position, all.data(), 4, 1), "its own types are supported");
        auto other = all;
        other[static_cast<size_t>(position)].desc.type = abi::kInt32;
        expect(!build(plugin.get())->supportsFormat(position, other.data(), 4, 1), "another type is not");
        other = all;
        other[static_cast<size_t>(position)].desc.format = 1;
        expect(!build(plugin.get())->supportsFormat(position, other.data(), 4, 1), "another format is not");
    }
    expect(build(plugin.get())->configure(all.data(), 4, all.data() + 4, 1) == 0, "configured");
    auto wide = all;
    wide[0].desc.dims.d[3] = width + 8;
    expect(build(plugin.get())->configure(wide.data(), 4, wide.data() + 4, 1) != 0, "another head size is refused");
    size_t const workspace = build(plugin.get())->workspaceBytes(all.data(), 4, all.data() + 4, 1);
    expect(workspace < (size_t{1} << 32), "workspace is bounded");
    int32_t const count = build(plugin.get())->tacticCount();
    std::vector<int32_t> tactics(static_cast<size_t>(count));
    expect(count >= 1 && build(plugin.get())->validTactics(tactics.data(), count) == 0 && tactics[0] == 1, "tactics");
    expect(build(plugin.get())->timingCacheId() != nullptr && build(plugin.get())->metadata() != nullptr, "identity");

    std::unique_ptr<abi::Plugin> copy(plugin->clone());
    abi::Fields const* const stored = runtime(copy.get())->fieldsToSerialize();
    std::unique_ptr<abi::Plugin> restored(maker->create("layer", stored, abi::kRunning));
    plugin.reset();
    copy.reset();
    expect(restored != nullptr, "made again from what was stored");
    if (!restored) return;
    abi::Fields const* const again = runtime(restored.get())->fieldsToSerialize();
    expect(again->count == 4 && std::memcmp(again->fields[3].data, kernels.data(), kernels.size()) == 0,
           "what is stored does not change");
    expect(runtime(restored.get())->setTactic(1) == 0, "tactic set");
    std::unique_ptr<abi::Plugin> attached(runtime(restored.get())->attachToContext(nullptr));
    restored.reset();
    void const* nothing[4] = {};
    void* target[1] = {};
    expect(runtime(attached.get())->enqueue(in.data(), &out, nothing, target, nullptr, nullptr) != 0,
           "enqueue before onShapeChange is refused");
    // Without a device this says so, and with one it works; either way nothing crashes.
    int32_t const status = runtime(attached.get())->onShapeChange(in.data(), 4, &out, 1);
    expect(status == 0 || recorder.last.find("CUDA") != std::string::npos, "onShapeChange names what is missing");
}

// Extents by what was asked for, as long as the builder lives.
struct Exprs final : abi::Exprs {
    struct Expr {
        int32_t operation;
        int64_t value;
        void const* first;
        void const* second;
    };
    std::vector<std::unique_ptr<Expr>> made;

    void const* constant(int64_t value) override { return operation_({-1, value, nullptr, nullptr}); }
    void const* operation(int32_t operation, void const* first, void const* second) override {
        return operation_({operation, 0, first, second});
    }
    void const* operation_(Expr expr) {
        made.push_back(std::make_unique<Expr>(expr));
        return made.back().get();
    }
    int64_t value(void const* expr) const {
        for (auto const& one : made) {
            if (one.get() == expr && one->operation == -1) return one->value;
        }
        return -1;
    }
};

using Numbers = std::vector<std::vector<int32_t>>;

// Four query heads over two key heads in one tensor [B, S, (4 + 2 + 2) * width], and a merged output.
Numbers thirds(int32_t width) {
    std::vector<int32_t> const cut = {0, 0, 8, width}, perm = {0, 2, 1, 3};
    return {cut, {0, 0}, {4, width}, perm, cut, {4, 0}, {6, width}, perm, cut, {6, 0}, {8, width}, perm,
            perm, {0, 0, 4 * width}};
}

void views(Library const& library, char const* opType, std::string const& kernels, int32_t dtype, int64_t width) {
    abi::Creator* const maker = library.creator(opType);
    auto const narrow = static_cast<int32_t>(width);
    Attributes attributes(0.125F, "mean", "views", kernels);
    std::unique_ptr<abi::Plugin> plugin(maker->create("layer", attributes.viewed(thirds(narrow)).given(), abi::kBuilding));
    expect(plugin != nullptr, "a node of views is created");
    if (!plugin) return;
    Exprs exprs;
    abi::ExprBuilder builder{nullptr, &exprs};
    int symbols[4];
    abi::DimsExprs in[4]{};
    for (int input = 0; input < 3; ++input) in[input] = {3, {&symbols[0], &symbols[1], &symbols[2], &symbols[3]}};
    in[3].rank = 1;
    abi::DimsExprs shape{};
    expect(build(plugin.get())->outputShapes(in, 4, nullptr, 0, &shape, 1, &builder) == 0, "output shape of views");
    expect(shape.rank == 3 && shape.d[0] == &symbols[0] && shape.d[1] == &symbols[1] && exprs.value(shape.d[2]) == 4 * width,
           "[B, S, H * D]");
    expect(build(plugin.get())->outputShapes(in, 4, nullptr, 0, &shape, 1, nullptr) != 0, "no extents without a builder");
    in[1].rank = 4;
    expect(build(plugin.get())->outputShapes(in, 4, nullptr, 0, &shape, 1, &builder) != 0, "another rank is refused");

    abi::TensorDesc const whole = tensor(dtype, {2, 300, 8 * width});
    std::vector<abi::TensorDesc> descs = {whole, whole, whole, tensor(abi::kFloat, {4}), tensor(dtype, {2, 300, 4 * width})};
    std::vector<abi::DynamicTensorDesc> all;
    for (auto const& desc : descs) all.push_back(dynamic(desc));
    expect(build(plugin.get())->configure(all.data(), 4, all.data() + 4, 1) == 0, "views are configured");
    auto wide = all;
    wide[4].desc.dims.d[2] += 8;
    expect(build(plugin.get())->configure(wide.data(), 4, wide.data() + 4, 1) != 0, "another output is refused");
    expect(build(plugin.get())->workspaceBytes(all.data(), 4, all.data() + 4, 1) < (size_t{1} << 32), "workspace of views");
    std::unique_ptr<abi::Plugin> restored(maker->create("layer", runtime(plugin.get())->fieldsToSerialize(), abi::kRunning));
    expect(restored != nullptr && std::strcmp(build(restored.get())->timingCacheId(), build(plugin.get())->timingCacheId()) == 0,
           "views are stored");
    Attributes other(0.125F, "mean", "views", kernels);
    Numbers moved = thirds(narrow);
    std::swap(moved[5], moved[9]);  // key and value
    std::swap(moved[6], moved[10]);
    std::unique_ptr<abi::Plugin> changed(maker->create("layer", other.viewed(moved).given(), abi::kBuilding));
    expect(changed != nullptr && std::strcmp(build(changed.get())->timingCacheId(), build(plugin.get())->timingCacheId()) != 0,
           "other views are another node");
    std::unique_ptr<abi::Plugin> copy(plugin->clone());
    plugin.reset();
    std::unique_ptr<abi::Plugin> attached(runtime(copy.get())->attachToContext(nullptr));
    copy.reset();
    int32_t const status = runtime(attached.get())->onShapeChange(descs.data(), 4, &descs[4], 1);
    expect(status == 0 || recorder.last.find("CUDA") != std::string::npos, "onShapeChange names what is missing");
    descs[1] = tensor(dtype, {2, 300, 8 * width - 1});
    expect(runtime(attached.get())->onShapeChange(descs.data(), 4, &descs[4], 1) != 0
               && recorder.last.find("key: its last dimension is") != std::string::npos,
           "a tensor without such a view is refused");

    // Part of a tensor of rank 4, in the order of ONNX: its extents are computed.
    Numbers parts = thirds(narrow);
    for (size_t operand = 0; operand < 3; ++operand) parts[4 * operand] = {0, 0, 0, 0};
    parts[2] = {INT32_MAX, narrow};
    parts[1] = {4, 0};
    parts[12] = {0, 1, 2, 3};
    parts[13] = {0, 0, 0, 0};
    Attributes cut(0.125F, "mean", "views", kernels);
    std::unique_ptr<abi::Plugin> const sliced(maker->create("layer", cut.viewed(parts).given(), abi::kBuilding));
    expect(sliced != nullptr, "slices of rank 4");
    if (!sliced) return;
    for (int input = 0; input < 3; ++input) in[input].rank = 4;
    expect(build(sliced.get())->outputShapes(in, 4, nullptr, 0, &shape, 1, &builder) == 0 && shape.rank == 4, "of rank 4");
    auto const* const heads = static_cast<Exprs::Expr const*>(shape.d[1]);
    expect(heads->operation == abi::kMax && exprs.value(heads->second) == 0, "heads are not negative");
    auto const* const less = static_cast<Exprs::Expr const*>(heads->first);
    expect(less->operation == abi::kSub && less->first == &symbols[2] && exprs.value(less->second) == 4, "extent - start");

    for (size_t i = 0; i < alibi::kViewAttributes.size(); ++i) {
        for (std::vector<int32_t> const& wrong : Numbers{{}, {1}, {0, -1}, {0, 0, 0, -4}, {1, 2, 3, 0}, Numbers::value_type(1000, 9)}) {
            Numbers numbers = thirds(narrow);
            numbers[i] = wrong;
            Attributes bad(0.125F, "mean", "views", kernels);
            std::unique_ptr<abi::Plugin> const made(maker->create("layer", bad.viewed(numbers).given(), abi::kBuilding));
            expect(made == nullptr && recorder.last.size() < 300, "what is no view is refused in a sentence");
        }
    }
}

void badInput(Library const& library, char const* opType, std::string const& kernels) {
    abi::Creator* const maker = library.creator(opType);
    auto const refused = [&](abi::Fields const* fields) {
        std::unique_ptr<abi::Plugin> const made(maker->create("layer", fields, abi::kBuilding));
        return made == nullptr && recorder.last.rfind("1 ", 0) == 0;
    };
    expect(refused(nullptr), "no attributes are refused");
    for (size_t left_out = 0; left_out < 4; ++left_out) {
        Attributes attributes(0.125F, "mean", "BHSD", kernels);
        attributes.fields.erase(attributes.fields.begin() + static_cast<long>(left_out));
        attributes.collection = {3, attributes.fields.data()};
        if (left_out == 0 || left_out == 3) expect(refused(&attributes.collection), "a missing attribute is refused");
    }
    expect(refused(Attributes(0.125F, "median", "BHSD", kernels).given()), "an unknown policy is refused");
    expect(refused(Attributes(0.125F, "mean", "BHDS", kernels).given()), "an unknown layout is refused");
    expect(refused(Attributes(0.125F, "mean", "BBSD", kernels).given()), "a layout with an axis twice is refused");
    expect(refused(Attributes(0.125F, "mean", "", kernels).given()), "an empty layout is refused");
    expect(refused(Attributes(0.125F, "mean", "BHSD", "not a bundle").given()), "text is no bundle");
    char const* const other = std::strcmp(opType, "AlibiAttentionLinear") == 0 ? "AlibiAttentionCausal" : "AlibiAttentionLinear";
    Attributes const attributes(0.125F, "mean", "BHSD", kernels);
    std::unique_ptr<abi::Plugin> const made(library.creator(other)->create("layer", &attributes.collection, 0));
    expect(made == nullptr, "kernels of another op_type are refused");
    for (size_t length = 0; length < kernels.size(); length += 1 + kernels.size() / 97) {
        expect(refused(Attributes(0.125F, "mean", "BHSD", kernels.substr(0, length)).given()), "cut off");
    }
    std::mt19937 random(7);
    for (int round = 0; round < 200; ++round) {
        std::string damaged = kernels;
        size_t const place = random() % damaged.size();
        damaged[place] = static_cast<char>(damaged[place] ^ (1 << random() % 8));
        std::unique_ptr<abi::Plugin> const made_(
            maker->create("layer", Attributes(0.125F, "mean", "BHSD", damaged).given(), 0));
        expect(made_ == nullptr, "one flipped bit is noticed");
    }
}

std::string contents(char const* path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
}

Library* loaded = nullptr;

}  // namespace

// host LIBRARY BUNDLE OP_TYPE DTYPE WIDTH MEMBERS: the exit status is the number of failed expectations.
int main(int argc, char** argv) {
    if (argc != 7) return 100;
    Library const library(argv[1]);
    if (library.creators == nullptr) return 101;
    expect(library.count == std::atoi(argv[6]), "the whole family");
    std::string const kernels = contents(argv[2]);
    lifecycle(library, argv[3], kernels, std::atoi(argv[4]), std::atoi(argv[5]));
    views(library, argv[3], kernels, std::atoi(argv[4]), std::atoi(argv[5]));
    badInput(library, argv[3], kernels);
    std::printf("%d failures\n", failures);
    return failures;
}

extern "C" {

int32_t hostOpen(char const* path) {
    delete loaded;
    loaded = new Library(path);
    return loaded->count;
}

// The name of the `index`-th creator.
char const* hostMember(int32_t index) { return static_cast<abi::Creator*>(loaded->creators[index])->pluginName(); }

char const* hostLastMessage() { return recorder.last.c_str(); }

// An instance as it is in an engine, or null.  `views` is null, or a count and so many numbers for each attribute.
Instance* hostCreate(char const* opType, float scale, char const* emptyRows, char const* layout, char const* kernels,
                     int64_t length, int32_t tactic, int32_t windowLeft, int32_t windowRight, int32_t const* views, char const* rows) {
    abi::Creator* const maker = loaded->creator(opType);
    if (maker == nullptr) return nullptr;
    Attributes attributes(scale, emptyRows, layout, std::string(kernels, static_cast<size_t>(length)),
                          {windowLeft, windowRight});
    Numbers numbers;
    while (views != nullptr && numbers.size() < alibi::kViewAttributes.size()) {
        numbers.emplace_back(views + 1, views + 1 + views[0]);
        views += 1 + views[0];
    }
    if (rows != nullptr) attributes.fields.push_back({"rows", rows, abi::kFieldChar, static_cast<int32_t>(std::strlen(rows) + 1)});
    attributes.viewed(std::move(numbers));
    std::unique_ptr<abi::Plugin> const built(maker->create("layer", &attributes.collection, abi::kBuilding));
    if (!built) return nullptr;
    auto instance = std::make_unique<Instance>();
    instance->restored.reset(maker->create("layer", runtime(built.get())->fieldsToSerialize(), abi::kRunning));
    if (!instance->restored) return nullptr;
    if (tactic > 0) runtime(instance->restored.get())->setTactic(tactic);
    instance->attached.reset(runtime(instance->restored.get())->attachToContext(nullptr));
    return instance->attached ? instance.release() : nullptr;
}

void hostDestroy(Instance* instance) { delete instance; }

int32_t hostTactics(Instance* instance) { return build(instance->restored.get())->tacticCount(); }

int64_t hostWorkspace(Instance* instance, abi::DynamicTensorDesc const* in, int32_t inputs,
                      abi::DynamicTensorDesc const* out) {
    return static_cast<int64_t>(build(instance->restored.get())->workspaceBytes(in, inputs, out, 1));
}

int32_t hostShape(Instance* instance, abi::TensorDesc const* in, int32_t inputs, abi::TensorDesc const* out) {
    return runtime(instance->attached.get())->onShapeChange(in, inputs, out, 1);
}

int32_t hostEnqueue(Instance* instance, abi::TensorDesc const* inDesc, abi::TensorDesc const* outDesc,
                    void const* const* in, void* const* out, void* workspace, void* stream) {
    return runtime(instance->attached.get())->enqueue(inDesc, outDesc, in, out, workspace, stream);
}

// Nanoseconds per call of enqueue, over many calls.
double hostEnqueueCost(Instance* instance, abi::TensorDesc const* inDesc, abi::TensorDesc const* outDesc,
                       void const* const* in, void* const* out, void* workspace, void* stream, int32_t calls) {
    timespec start{};
    timespec end{};
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int32_t i = 0; i < calls; ++i) {
        if (runtime(instance->attached.get())->enqueue(inDesc, outDesc, in, out, workspace, stream) != 0) return -1.0;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (1e9 * static_cast<double>(end.tv_sec - start.tv_sec) + static_cast<double>(end.tv_nsec - start.tv_nsec)) / calls;
}

// The same for bare launches of any function: what there is to compare with.
double hostLaunchCost(void* function, uint32_t threads, void** parameters, void* stream, int32_t calls) {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    auto const launch = reinterpret_cast<int32_t (*)(void*, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t,
                                                     uint32_t, void*, void**, void**)>(dlsym(driver, "cuLaunchKernel"));
    timespec start{};
    timespec end{};
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int32_t i = 0; i < calls; ++i) {
        if (launch(function, 1, 1, 1, threads, 1, 1, 0, stream, parameters, nullptr) != 0) return -1.0;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (1e9 * static_cast<double>(end.tv_sec - start.tv_sec) + static_cast<double>(end.tv_nsec - start.tv_nsec)) / calls;
}

}  // extern "C"
