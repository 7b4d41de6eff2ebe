// Drives the plugin library through NVIDIA's own headers, where they are installed: what native/tensorrt/abi.h says in our
// words has to be what they say.  No TensorRT library is linked or loaded.
//
//   headers LIBRARY BUNDLE OP_TYPE,OP_TYPE,...      the exit status is 0 if everything agrees; the names are the family
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "tensorrt/abi.h"

namespace abi = alibi::abi;
using namespace nvinfer1;

static_assert(sizeof(Dims64) == sizeof(abi::Dims) && offsetof(Dims64, d) == offsetof(abi::Dims, d));
static_assert(sizeof(PluginTensorDesc) == sizeof(abi::TensorDesc));
static_assert(offsetof(PluginTensorDesc, type) == offsetof(abi::TensorDesc, type));
static_assert(offsetof(PluginTensorDesc, format) == offsetof(abi::TensorDesc, format));
static_assert(sizeof(DynamicPluginTensorDesc) == sizeof(abi::DynamicTensorDesc));
static_assert(offsetof(DynamicPluginTensorDesc, max) == offsetof(abi::DynamicTensorDesc, max));
static_assert(sizeof(DimsExprs) == sizeof(abi::DimsExprs));
static_assert(sizeof(PluginField) == sizeof(abi::Field) && offsetof(PluginField, length) == offsetof(abi::Field, length));
static_assert(sizeof(PluginFieldCollection) == sizeof(abi::Fields));
static_assert(static_cast<int32_t>(DataType::kFLOAT) == abi::kFloat);
static_assert(static_cast<int32_t>(DataType::kHALF) == abi::kHalf);
static_assert(static_cast<int32_t>(DataType::kBOOL) == abi::kBool);
static_assert(static_cast<int32_t>(DataType::kBF16) == abi::kBFloat16);
static_assert(static_cast<int32_t>(PluginFieldType::kFLOAT32) == abi::kFieldFloat32);
static_assert(static_cast<int32_t>(PluginFieldType::kCHAR) == abi::kFieldChar);
static_assert(static_cast<int32_t>(PluginCapabilityType::kBUILD) == abi::kBuild);
static_assert(static_cast<int32_t>(PluginCapabilityType::kRUNTIME) == abi::kRuntime);
static_assert(static_cast<int32_t>(TensorFormat::kLINEAR) == abi::kLinear);

static_assert(static_cast<int32_t>(PluginFieldType::kINT32) == abi::kFieldInt32);
static_assert(sizeof(IExprBuilder) == sizeof(abi::ExprBuilder));
static_assert(static_cast<int32_t>(DimensionOperation::kMAX) == abi::kMax);
static_assert(static_cast<int32_t>(DimensionOperation::kMIN) == abi::kMin);
static_assert(static_cast<int32_t>(DimensionOperation::kSUB) == abi::kSub);

namespace {

int failures = 0;

void expect(bool condition, char const* what) {
    if (condition) return;
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what);
}

// Extents as TensorRT offers them, used as the plugin uses them.
struct Exprs final : apiv::VExprBuilder {
    std::string asked;

    IDimensionExpr const* constant(int64_t value) override {
        asked += "constant " + std::to_string(value);
        return reinterpret_cast<IDimensionExpr const*>(this);
    }
    IDimensionExpr const* operation(DimensionOperation op, IDimensionExpr const& first, IDimensionExpr const&) override {
        asked += " operation " + std::to_string(static_cast<int32_t>(op));
        return &first;
    }
    IDimensionExpr const* declareSizeTensor(int32_t, IDimensionExpr const&, IDimensionExpr const&) override { return nullptr; }
};

struct Builder final : IExprBuilder {
    explicit Builder(Exprs& exprs) { mImpl = &exprs; }
};

void builder() {
    Exprs exprs;
    Builder given(exprs);
    auto* const ours = reinterpret_cast<abi::ExprBuilder*>(static_cast<IExprBuilder*>(&given))->exprs;
    void const* const constant = ours->constant(int64_t{7} << 33);
    expect(ours->operation(abi::kSub, constant, ours) == constant, "operands are references");
    expect(exprs.asked == "constant " + std::to_string(int64_t{7} << 33) + " operation 4", "extents are asked for");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 100;
    void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return 101;
    auto const find = reinterpret_cast<IPluginCreatorInterface* const* (*) (int32_t&)>(dlsym(library, "getCreators"));
    int32_t count = 0;
    IPluginCreatorInterface* const* const creators = find(count);
    // Names between commas, so that none is found inside of another.
    std::string const family = "," + std::string(argv[3]) + ",";
    expect(count == std::count(family.begin(), family.end(), ',') - 1, "a creator for each member of the family");
    std::ifstream stream(argv[2], std::ios::binary);
    std::string const kernels{std::istreambuf_iterator<char>(stream), {}};
    float const scale = 0.125F;
    PluginField const fields[] = {{"scale", &scale, PluginFieldType::kFLOAT32, 1},
                                  {"empty_rows", "mean", PluginFieldType::kCHAR, 5},
                                  {"layout", "BHSD", PluginFieldType::kCHAR, 5},
                                  {"kernels", kernels.data(), PluginFieldType::kCHAR, static_cast<int32_t>(kernels.size())}};
    PluginFieldCollection const collection{4, fields};
    for (int32_t i = 0; i < count; ++i) {
        InterfaceInfo const info = creators[i]->getInterfaceInfo();
        expect(std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") == 0 && info.major == 1, "the kind of a creator");
        auto* const creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        expect(std::strcmp(creator->getPluginNamespace(), "alibi") == 0, "namespace");
        expect(std::strcmp(creator->getPluginVersion(), "1") == 0, "version");
        std::string const name = creator->getPluginName();
        expect(family.find("," + name + ",") != std::string::npos, "a member of the family");
        bool const window = name.find("Window") != std::string::npos;
        expect(creator->getFieldNames()->nbFields == (window ? 20 : 18), "declared fields");
        if (name != "AlibiAttentionCausal") continue;
        IPluginV3* const plugin = creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
        expect(plugin != nullptr, "created");
        if (plugin == nullptr) break;
        auto* const core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
        auto* const build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
        auto* const run = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
        expect(std::strcmp(core->getInterfaceInfo().kind, "PLUGIN_V3ONE_CORE") == 0, "the kind of core");
        expect(std::strcmp(build->getInterfaceInfo().kind, "PLUGIN_V3ONE_BUILD") == 0, "the kind of build");
        expect(std::strcmp(run->getInterfaceInfo().kind, "PLUGIN_V3ONE_RUNTIME") == 0, "the kind of runtime");
        expect(std::strcmp(core->getPluginName(), "AlibiAttentionCausal") == 0, "name");
        expect(build->getNbOutputs() == 1, "outputs");
        DataType const inputs[] = {DataType::kBF16, DataType::kBF16, DataType::kBF16, DataType::kFLOAT};
        DataType output = DataType::kINT8;
        expect(build->getOutputDataTypes(&output, 1, inputs, 4) == 0 && output == DataType::kBF16, "output type");
        expect(build->getNbTactics() >= 1 && build->getTimingCacheID() != nullptr, "tactics");
        PluginFieldCollection const* const stored = run->getFieldsToSerialize();
        expect(stored->nbFields == 4 && std::strcmp(stored->fields[3].name, "kernels") == 0, "stored fields");
        IPluginV3* const copy = plugin->clone();
        expect(copy != nullptr && copy != plugin, "clone");
        delete copy;
        delete plugin;
    }
    builder();
    std::printf("%d failures\n", failures);
    return failures;
}
