// Compares native/onnxruntime/abi.h with onnxruntime's public header: every place and every layout, when it is compiled.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "onnxruntime/abi.h"

#define SAME_PLACE(place, entry) static_assert(offsetof(OrtApi, entry) / sizeof(void*) == alibi::ort::place, #entry)
#define SAME_FIELD(field, entry) \
    static_assert(offsetof(OrtCustomOp, entry) == offsetof(alibi::ort::CustomOp, field), #entry)

SAME_PLACE(kCreateStatus, CreateStatus);
SAME_PLACE(kGetErrorMessage, GetErrorMessage);
SAME_PLACE(kCreateCustomOpDomain, CreateCustomOpDomain);
SAME_PLACE(kCustomOpDomainAdd, CustomOpDomain_Add);
SAME_PLACE(kAddCustomOpDomain, AddCustomOpDomain);
SAME_PLACE(kGetTensorMutableData, GetTensorMutableData);
SAME_PLACE(kCreateTensorTypeAndShapeInfo, CreateTensorTypeAndShapeInfo);
SAME_PLACE(kSetTensorElementType, SetTensorElementType);
SAME_PLACE(kSetDimensions, SetDimensions);
SAME_PLACE(kGetTensorElementType, GetTensorElementType);
SAME_PLACE(kGetDimensionsCount, GetDimensionsCount);
SAME_PLACE(kGetDimensions, GetDimensions);
SAME_PLACE(kGetSymbolicDimensions, GetSymbolicDimensions);
SAME_PLACE(kGetTensorTypeAndShape, GetTensorTypeAndShape);
SAME_PLACE(kAttributeFloat, KernelInfoGetAttribute_float);
SAME_PLACE(kAttributeInt64, KernelInfoGetAttribute_int64);
SAME_PLACE(kAttributeInts, KernelInfoGetAttributeArray_int64);
SAME_PLACE(kAttributeString, KernelInfoGetAttribute_string);
SAME_PLACE(kGetInputCount, KernelContext_GetInputCount);
SAME_PLACE(kGetInput, KernelContext_GetInput);
SAME_PLACE(kGetOutput, KernelContext_GetOutput);
SAME_PLACE(kReleaseStatus, ReleaseStatus);
SAME_PLACE(kReleaseTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo);
SAME_PLACE(kReleaseCustomOpDomain, ReleaseCustomOpDomain);
SAME_PLACE(kAddSessionConfigEntry, AddSessionConfigEntry);
SAME_PLACE(kReleaseAllocator, ReleaseAllocator);
SAME_PLACE(kGetGpuComputeStream, KernelContext_GetGPUComputeStream);
SAME_PLACE(kHasSessionConfigEntry, HasSessionConfigEntry);
SAME_PLACE(kGetSessionConfigEntry, GetSessionConfigEntry);
SAME_PLACE(kShapeGetInput, ShapeInferContext_GetInputTypeShape);
SAME_PLACE(kShapeGetAttribute, ShapeInferContext_GetAttribute);
SAME_PLACE(kReadAttribute, ReadOpAttr);
SAME_PLACE(kShapeSetOutput, ShapeInferContext_SetOutputTypeShape);
SAME_PLACE(kSetSymbolicDimensions, SetSymbolicDimensions);
SAME_PLACE(kParallelFor, KernelContext_ParallelFor);
SAME_PLACE(kGetScratchBuffer, KernelContext_GetScratchBuffer);
SAME_PLACE(kKernelInfoGetAllocator, KernelInfoGetAllocator);

SAME_FIELD(version, version);
SAME_FIELD(createKernel, CreateKernel);
SAME_FIELD(name, GetName);
SAME_FIELD(provider, GetExecutionProviderType);
SAME_FIELD(inputType, GetInputType);
SAME_FIELD(inputCount, GetInputTypeCount);
SAME_FIELD(outputType, GetOutputType);
SAME_FIELD(outputCount, GetOutputTypeCount);
SAME_FIELD(compute, KernelCompute);
SAME_FIELD(destroy, KernelDestroy);
SAME_FIELD(inputCharacteristic, GetInputCharacteristic);
SAME_FIELD(outputCharacteristic, GetOutputCharacteristic);
SAME_FIELD(inputMemory, GetInputMemoryType);
SAME_FIELD(createKernelV2, CreateKernelV2);
SAME_FIELD(computeV2, KernelComputeV2);
SAME_FIELD(inferShape, InferOutputShapeFn);
SAME_FIELD(startVersion, GetStartVersion);
SAME_FIELD(endVersion, GetEndVersion);
SAME_FIELD(mayInplace, GetMayInplace);
SAME_FIELD(releaseMayInplace, ReleaseMayInplace);
SAME_FIELD(releaseAliasMap, ReleaseAliasMap);

static_assert(offsetof(OrtApiBase, GetVersionString) == offsetof(alibi::ort::ApiBase, version));
static_assert(offsetof(OrtAllocator, Free) == offsetof(alibi::ort::Allocator, free));
static_assert(offsetof(OrtAllocator, Info) == offsetof(alibi::ort::Allocator, info));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT == static_cast<int>(alibi::ort::kFloat));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL == static_cast<int>(alibi::ort::kBool));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 == static_cast<int>(alibi::ort::kInt64));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 == static_cast<int>(alibi::ort::kFloat16));
static_assert(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 == static_cast<int>(alibi::ort::kBFloat16));
static_assert(ORT_OP_ATTR_INT == static_cast<int>(alibi::ort::kInt));
static_assert(ORT_OP_ATTR_INTS == static_cast<int>(alibi::ort::kInts));
static_assert(ORT_OP_ATTR_STRING == static_cast<int>(alibi::ort::kString));
static_assert(ORT_NOT_IMPLEMENTED == static_cast<int>(alibi::ort::kNotImplemented));
static_assert(ORT_INVALID_ARGUMENT == static_cast<int>(alibi::ort::kInvalidArgument));
static_assert(INPUT_OUTPUT_REQUIRED == alibi::ort::kRequired && OrtMemTypeDefault == alibi::ort::kDefaultMemory);
