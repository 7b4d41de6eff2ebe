// Proves, in the binary that was built, that the slots of the virtual tables are where TensorRT looks for them.
//
// Each function is called through its raw slot and has to answer as the direct call does.
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "tensorrt/abi.h"

namespace alibi {
namespace {

template <typename Signature>
Signature* slot(void const* object, int index) {
    void* const* table;
    std::memcpy(&table, object, sizeof table);
    return reinterpret_cast<Signature*>(table[index]);
}

// Every function of every interface, each with an answer of its own.
struct Probe final : abi::Plugin, abi::Core, abi::Build, abi::Runtime {
    int last = 0;

    abi::Info info() const noexcept override { return {"probe", 7, 9}; }
    abi::Capability* capability(int32_t type) noexcept override {
        last = 100 + type;
        return nullptr;
    }
    abi::Plugin* clone() noexcept override { return (last = 101, nullptr); }
    char const* pluginName() const noexcept override { return "name"; }
    char const* pluginVersion() const noexcept override { return "version"; }
    char const* pluginNamespace() const noexcept override { return "namespace"; }
    int32_t configure(abi::DynamicTensorDesc const*, int32_t, abi::DynamicTensorDesc const*,
                      int32_t) noexcept override {
        return 204;
    }
    int32_t outputTypes(int32_t*, int32_t, int32_t const*, int32_t) const noexcept override { return 205; }
    int32_t outputShapes(abi::DimsExprs const*, int32_t, abi::DimsExprs const*, int32_t, abi::DimsExprs*, int32_t,
                         abi::ExprBuilder*) noexcept override {
        return 206;
    }
    bool supportsFormat(int32_t, abi::DynamicTensorDesc const*, int32_t, int32_t) noexcept override { return true; }
    int32_t outputCount() const noexcept override { return 208; }
    size_t workspaceBytes(abi::DynamicTensorDesc const*, int32_t, abi::DynamicTensorDesc const*,
                          int32_t) const noexcept override {
        return 209;
    }
    int32_t validTactics(int32_t*, int32_t) noexcept override { return 210; }
    int32_t tacticCount() noexcept override { return 211; }
    char const* timingCacheId() noexcept override { return "timing"; }
    int32_t formatCombinationLimit() noexcept override { return 213; }
    char const* metadata() noexcept override { return "metadata"; }
    int32_t setTactic(int32_t) noexcept override { return 304; }
    int32_t onShapeChange(abi::TensorDesc const*, int32_t, abi::TensorDesc const*, int32_t) noexcept override {
        return 305;
    }
    int32_t enqueue(abi::TensorDesc const*, abi::TensorDesc const*, void const* const*, void* const*, void*,
                    void*) noexcept override {
        return 306;
    }
    abi::Plugin* attachToContext(void*) noexcept override { return (last = 307, nullptr); }
    abi::Fields const* fieldsToSerialize() noexcept override { return (last = 308, nullptr); }
};

struct ExprsProbe final : abi::Exprs {
    void const* constant(int64_t value) override { return value == 7 ? this : nullptr; }
    void const* operation(int32_t operation, void const* first, void const* second) override {
        return operation == abi::kSub && first == this ? second : nullptr;
    }
};

struct CreatorProbe final : abi::Creator {
    int last = 0;

    abi::Plugin* create(char const*, abi::Fields const*, int32_t phase) noexcept override {
        return (last = 400 + phase, nullptr);
    }
    abi::Fields const* fieldNames() noexcept override { return (last = 410, nullptr); }
    char const* pluginName() const noexcept override { return "name"; }
    char const* pluginVersion() const noexcept override { return "version"; }
    char const* pluginNamespace() const noexcept override { return "namespace"; }
};

bool same(char const* a, char const* b) { return std::strcmp(a, b) == 0; }

int32_t callInt(void const* object, int index) { return slot<int32_t(void const*)>(object, index)(object); }
char const* callText(void const* object, int index) { return slot<char const*(void const*)>(object, index)(object); }

bool versioned(void const* object) {
    abi::Info const info = slot<abi::Info(void const*)>(object, 1)(object);
    return callInt(object, 0) == 0 && same(info.kind, "probe") && info.major == 7 && info.minor == 9;
}

}  // namespace
}  // namespace alibi

// 0 if all is as it has to be, otherwise the number of the first check that failed.
extern "C" __attribute__((visibility("default"))) int32_t alibiSelfTest() {
    using namespace alibi;
    Probe probe;
    void* const plugin = static_cast<abi::Plugin*>(&probe);
    void* const core = static_cast<abi::Core*>(&probe);
    void* const build = static_cast<abi::Build*>(&probe);
    void* const runtime = static_cast<abi::Runtime*>(&probe);
    if (!versioned(plugin) || !versioned(core) || !versioned(build) || !versioned(runtime)) return 1;
    slot<void*(void*, int32_t)>(plugin, 4)(plugin, 2);
    if (probe.last != 102) return 2;
    slot<void*(void*)>(plugin, 5)(plugin);
    if (probe.last != 101) return 3;
    if (!same(callText(core, 4), "name") || !same(callText(core, 5), "version")) return 4;
    if (!same(callText(core, 6), "namespace")) return 5;
    for (int index : {4, 5, 6, 8, 10, 11, 13}) {
        if (callInt(build, index) != 200 + index) return 6;
    }
    if (!slot<bool(void*)>(build, 7)(build)) return 7;
    if (slot<size_t(void*)>(build, 9)(build) != 209) return 8;
    if (!same(callText(build, 12), "timing") || !same(callText(build, 14), "metadata")) return 9;
    for (int index : {4, 5, 6}) {
        if (callInt(runtime, index) != 300 + index) return 10;
    }
    slot<void*(void*, void*)>(runtime, 7)(runtime, nullptr);
    if (probe.last != 307) return 11;
    slot<void*(void*)>(runtime, 8)(runtime);
    if (probe.last != 308) return 12;
    CreatorProbe creator;
    void* const maker = static_cast<abi::Creator*>(&creator);
    abi::Info const info = slot<abi::Info(void const*)>(maker, 1)(maker);
    if (!same(info.kind, "PLUGIN CREATOR_V3ONE") || info.major != 1) return 13;
    slot<void*(void*, char const*, void const*, int32_t)>(maker, 4)(maker, nullptr, nullptr, 1);
    if (creator.last != 401) return 14;
    slot<void*(void*)>(maker, 5)(maker);
    if (creator.last != 410) return 15;
    if (!same(callText(maker, 6), "name") || !same(callText(maker, 7), "version")) return 16;
    if (!same(callText(maker, 8), "namespace")) return 17;
    ExprsProbe exprs;
    void* const maths = static_cast<abi::Exprs*>(&exprs);
    if (slot<void const*(void*, int64_t)>(maths, 2)(maths, 7) != &exprs) return 18;
    if (slot<void const*(void*, int32_t, void const*, void const*)>(maths, 3)(maths, 4, maths, &creator) != &creator) return 19;
    return 0;
}
