// The binary interface of a TensorRT "V3One" plugin, in our own words.
//
// Only layout matters here: the order of virtual functions and the layout of plain structures, under the Itanium C++
// ABI (Linux on x86-64 and aarch64).  Names are ours; no header of NVIDIA is included or needed.  The interfaces are
// unchanged from TensorRT 10.1 to 11.x, and TensorRT-RTX takes them from 1.7 on.  What TensorRT itself checks at run
// time is the kind and the version in `Info`; our own checks are the static_asserts below, self_test.cpp, and
// tests/engine/headers.cpp, which compares this file with NVIDIA's headers where they are installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace alibi::abi {

// nvinfer1::DataType
enum DataType : int32_t { kFloat = 0, kHalf = 1, kInt8 = 2, kInt32 = 3, kBool = 4, kBFloat16 = 7, kInt64 = 8 };

// nvinfer1::PluginFieldType
enum FieldType : int32_t { kFieldFloat16 = 0, kFieldFloat32 = 1, kFieldInt32 = 5, kFieldChar = 6 };

// nvinfer1::PluginCapabilityType
enum CapabilityType : int32_t { kCore = 0, kBuild = 1, kRuntime = 2 };

// nvinfer1::TensorRTPhase
enum Phase : int32_t { kBuilding = 0, kRunning = 1 };

// nvinfer1::ILogger::Severity
enum Severity : int32_t { kInternalError = 0, kError = 1, kWarning = 2, kInfo = 3, kVerbose = 4 };

constexpr int32_t kLinear = 0;  // nvinfer1::TensorFormat::kLINEAR
constexpr int32_t kMaxDims = 8;

struct Dims {
    int32_t rank;
    int64_t d[kMaxDims];
};

struct TensorDesc {  // nvinfer1::PluginTensorDesc
    Dims dims;
    int32_t type;
    int32_t format;
    float scale;
};

struct DynamicTensorDesc {  // nvinfer1::DynamicPluginTensorDesc
    TensorDesc desc;
    Dims min;
    Dims max;
    Dims opt;
};

struct DimsExprs {  // nvinfer1::DimsExprs: symbolic extents
    int32_t rank;
    void const* d[kMaxDims];
};

// nvinfer1::DimensionOperation
enum Operation : int32_t { kMax = 2, kMin = 3, kSub = 4 };

class Exprs {  // nvinfer1::apiv::VExprBuilder; slots 0-1 for the destructor
public:
    virtual ~Exprs() noexcept = default;
    virtual void const* constant(int64_t value) = 0;
    virtual void const* operation(int32_t operation, void const* first, void const* second) = 0;  // by reference there
};

struct ExprBuilder {  // nvinfer1::IExprBuilder
    void const* table;
    Exprs* exprs;
};

struct Field {  // nvinfer1::PluginField
    char const* name;
    void const* data;
    int32_t type;
    int32_t length;
};

struct Fields {  // nvinfer1::PluginFieldCollection
    int32_t count;
    Field const* fields;
};

static_assert(sizeof(void*) == 8, "64-bit only");
static_assert(sizeof(Dims) == 72 && offsetof(Dims, d) == 8, "Dims64");
static_assert(sizeof(TensorDesc) == 88 && offsetof(TensorDesc, type) == 72 && offsetof(TensorDesc, scale) == 80);
static_assert(sizeof(DynamicTensorDesc) == 304 && offsetof(DynamicTensorDesc, min) == 88
              && offsetof(DynamicTensorDesc, max) == 160 && offsetof(DynamicTensorDesc, opt) == 232);
static_assert(sizeof(DimsExprs) == 72 && offsetof(DimsExprs, d) == 8);
static_assert(sizeof(ExprBuilder) == 16 && offsetof(ExprBuilder, exprs) == 8);
static_assert(sizeof(Field) == 24 && offsetof(Field, data) == 8 && offsetof(Field, type) == 16);
static_assert(sizeof(Fields) == 16 && offsetof(Fields, fields) == 8);

struct Info {  // nvinfer1::InterfaceInfo
    char const* kind;
    int32_t major;
    int32_t minor;
};

class Versioned {  // nvinfer1::IVersionedInterface; slots 0, 1, and 2-3 for the destructor
public:
    virtual int32_t language() const noexcept { return 0; }  // APILanguage::kCPP
    virtual Info info() const noexcept = 0;
    virtual ~Versioned() noexcept = default;
};

class Capability : public Versioned {};  // nvinfer1::IPluginCapability

class Plugin : public Versioned {  // nvinfer1::IPluginV3
public:
    Info info() const noexcept override { return {"PLUGIN", 1, 0}; }
    virtual Capability* capability(int32_t type) noexcept = 0;
    virtual Plugin* clone() noexcept = 0;
};

class Core : public Capability {  // nvinfer1::IPluginV3OneCore
public:
    Info info() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
    virtual char const* pluginName() const noexcept = 0;
    virtual char const* pluginVersion() const noexcept = 0;
    virtual char const* pluginNamespace() const noexcept = 0;
};

class Build : public Capability {  // nvinfer1::IPluginV3OneBuild
public:
    Info info() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
    virtual int32_t configure(DynamicTensorDesc const* in, int32_t inputs, DynamicTensorDesc const* out,
                              int32_t outputs) noexcept = 0;
    virtual int32_t outputTypes(int32_t* types, int32_t outputs, int32_t const* inputTypes,
                                int32_t inputs) const noexcept = 0;
    virtual int32_t outputShapes(DimsExprs const* in, int32_t inputs, DimsExprs const* shapeInputs,
                                 int32_t shapeInputCount, DimsExprs* out, int32_t outputs,
                                 ExprBuilder* builder) noexcept = 0;
    virtual bool supportsFormat(int32_t position, DynamicTensorDesc const* inOut, int32_t inputs,
                                int32_t outputs) noexcept = 0;
    virtual int32_t outputCount() const noexcept = 0;
    virtual size_t workspaceBytes(DynamicTensorDesc const*, int32_t, DynamicTensorDesc const*,
                                  int32_t) const noexcept {
        return 0;
    }
    virtual int32_t validTactics(int32_t*, int32_t) noexcept { return 0; }
    virtual int32_t tacticCount() noexcept { return 0; }
    virtual char const* timingCacheId() noexcept { return nullptr; }
    virtual int32_t formatCombinationLimit() noexcept { return 100; }
    virtual char const* metadata() noexcept { return nullptr; }
};

class Runtime : public Capability {  // nvinfer1::IPluginV3OneRuntime
public:
    Info info() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
    virtual int32_t setTactic(int32_t) noexcept { return 0; }
    virtual int32_t onShapeChange(TensorDesc const* in, int32_t inputs, TensorDesc const* out,
                                  int32_t outputs) noexcept = 0;
    virtual int32_t enqueue(TensorDesc const* inDesc, TensorDesc const* outDesc, void const* const* in,
                            void* const* out, void* workspace, void* stream) noexcept = 0;
    virtual Plugin* attachToContext(void* context) noexcept = 0;
    virtual Fields const* fieldsToSerialize() noexcept = 0;
};

class Creator : public Versioned {  // nvinfer1::IPluginCreatorV3One
public:
    Info info() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
    virtual Plugin* create(char const* layer, Fields const* fields, int32_t phase) noexcept = 0;
    virtual Fields const* fieldNames() noexcept = 0;
    virtual char const* pluginName() const noexcept = 0;
    virtual char const* pluginVersion() const noexcept = 0;
    virtual char const* pluginNamespace() const noexcept = 0;
};

class Logger {  // nvinfer1::ILogger; slot 0
public:
    virtual void log(int32_t severity, char const* message) noexcept = 0;
};

class LoggerFinder {  // nvinfer1::ILoggerFinder; slot 0
public:
    virtual Logger* find() = 0;
};

}  // namespace alibi::abi
