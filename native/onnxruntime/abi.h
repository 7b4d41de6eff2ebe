// The part of onnxruntime's C interface that a library of custom ops needs, in our own words.
//
// OrtApi is a table of functions that is only ever appended to, so the place of an entry is a constant.  The same holds
// for OrtCustomOp and its version.  No header of onnxruntime is included or needed; tests/runtime/headers.cpp
// compares this file with the public one where it is at hand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace alibi::ort {

struct Status;
struct Value;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct TensorInfo;
struct OpAttribute;
struct MemoryInfo;
struct SessionOptions;
struct Domain;
struct Allocator;

// ONNXTensorElementDataType
enum ElementType : int32_t { kUndefined = 0, kFloat = 1, kInt64 = 7, kBool = 9, kFloat16 = 10, kBFloat16 = 16 };

// OrtErrorCode
enum Code : int32_t { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9 };

// OrtOpAttrType
enum AttributeType : int32_t { kInt = 1, kInts = 2, kString = 5 };

// OrtCustomOpInputOutputCharacteristic, OrtMemType
constexpr int32_t kRequired = 0;
constexpr int32_t kDefaultMemory = 0;

constexpr uint32_t kApiVersion = 18;  // of everything below; onnxruntime 1.18 and later have it
constexpr uint32_t kFirstApi = 1;     // which every onnxruntime has: enough to say that it is too old

struct Api {
    void* entries[1];  // as many as the runtime has
};

struct ApiBase {  // OrtApiBase
    Api const* (*get)(uint32_t version) noexcept;
    char const* (*version)() noexcept;
};

struct Allocator {  // OrtAllocator
    uint32_t version;
    void* (*alloc)(Allocator*, size_t);
    void (*free)(Allocator*, void*);
    MemoryInfo const* (*info)(Allocator const*);
};

// Where functions are in OrtApi.
enum Place : size_t {
    kCreateStatus = 0,
    kGetErrorMessage = 2,
    kCreateCustomOpDomain = 26,
    kCustomOpDomainAdd = 27,
    kAddCustomOpDomain = 28,
    kGetTensorMutableData = 51,
    kCreateTensorTypeAndShapeInfo = 57,
    kSetTensorElementType = 58,
    kSetDimensions = 59,
    kGetTensorElementType = 60,
    kGetDimensionsCount = 61,
    kGetDimensions = 62,
    kGetSymbolicDimensions = 63,
    kGetTensorTypeAndShape = 65,
    kAttributeFloat = 85,
    kAttributeInt64 = 86,
    kAttributeString = 87,
    kGetInputCount = 88,
    kGetInput = 90,
    kGetOutput = 91,
    kReleaseStatus = 93,
    kReleaseTensorTypeAndShapeInfo = 99,
    kReleaseCustomOpDomain = 101,
    kAddSessionConfigEntry = 130,
    kReleaseAllocator = 132,
    kAttributeInts = 163,
    kGetGpuComputeStream = 193,
    kHasSessionConfigEntry = 237,
    kGetSessionConfigEntry = 238,
    kShapeGetInput = 268,
    kShapeGetAttribute = 269,
    kShapeSetOutput = 270,
    kSetSymbolicDimensions = 271,
    kReadAttribute = 272,
    kParallelFor = 274,
    kGetScratchBuffer = 277,
    kKernelInfoGetAllocator = 278,
    kPlaces = 279,
};

struct CustomOp {  // OrtCustomOp
    uint32_t version;
    void* (*createKernel)(CustomOp const*, Api const*, KernelInfo const*);
    char const* (*name)(CustomOp const*);
    char const* (*provider)(CustomOp const*);
    int32_t (*inputType)(CustomOp const*, size_t);
    size_t (*inputCount)(CustomOp const*);
    int32_t (*outputType)(CustomOp const*, size_t);
    size_t (*outputCount)(CustomOp const*);
    void (*compute)(void*, KernelContext*);
    void (*destroy)(void*);
    int32_t (*inputCharacteristic)(CustomOp const*, size_t);
    int32_t (*outputCharacteristic)(CustomOp const*, size_t);
    int32_t (*inputMemory)(CustomOp const*, size_t);
    int32_t (*variadicInputs)(CustomOp const*);
    int32_t (*variadicInputsSame)(CustomOp const*);
    int32_t (*variadicOutputs)(CustomOp const*);
    int32_t (*variadicOutputsSame)(CustomOp const*);
    Status* (*createKernelV2)(CustomOp const*, Api const*, KernelInfo const*, void**);  // since version 16
    Status* (*computeV2)(void*, KernelContext*);                                         // 16
    Status* (*inferShape)(CustomOp const*, ShapeContext*);                               // 17
    int32_t (*startVersion)(CustomOp const*);                                            // 17
    int32_t (*endVersion)(CustomOp const*);                                              // 17
    size_t (*mayInplace)(int32_t**, int32_t**);                                          // 18
    void (*releaseMayInplace)(int32_t*, int32_t*);                                       // 18
    size_t (*aliasMap)(int32_t**, int32_t**);                                            // 18
    void (*releaseAliasMap)(int32_t*, int32_t*);                                         // 18
};

static_assert(sizeof(void*) == 8, "64-bit only");
static_assert(sizeof(CustomOp) == 26 * 8 && offsetof(CustomOp, createKernel) == 8);
static_assert(offsetof(CustomOp, createKernelV2) == 17 * 8 && offsetof(CustomOp, inferShape) == 19 * 8);
static_assert(offsetof(CustomOp, releaseAliasMap) == 25 * 8);
static_assert(sizeof(ApiBase) == 16 && offsetof(ApiBase, version) == 8);
static_assert(sizeof(Allocator) == 32 && offsetof(Allocator, free) == 16);

}  // namespace alibi::ort
