// Stands in for onnxruntime: hands a library of custom ops the functions that it may ask for, and counts what it lends.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "onnxruntime/abi.h"

namespace alibi::ort {

struct Status {
    std::string message;
};
struct TensorInfo {
    int32_t type;
    std::vector<int64_t> extents;
    std::vector<char const*> names;
};
struct Value {
    TensorInfo info;
    std::vector<char> bytes;
    size_t offset = 0;
};
struct KernelInfo {
    std::map<std::string, std::string> texts;
    std::map<std::string, std::vector<int64_t>> numbers;
    float scale = 0.125F;
};
struct MemoryInfo {};
struct KernelContext {
    std::vector<Value> inputs;
    Value output;
    int64_t scratch = 0;
};
struct OpAttribute {
    int64_t number;
};
struct ShapeContext {
    TensorInfo input;
    std::map<std::string, OpAttribute> numbers;
    TensorInfo output;
};

}  // namespace alibi::ort

namespace {

using namespace alibi::ort;

std::atomic<int64_t> infos{0};
std::atomic<int64_t> allocators{0};
std::atomic<int64_t> scratch{0};
std::vector<CustomOp const*> registered;
char stream = 0;

Status* fine() { return nullptr; }
Status* failed(char const* message) { return new Status{message}; }
Status* unexpected() { return failed("an entry that is not known"); }

template <typename Function>
void place(std::array<void*, kPlaces>& entries, Place at, Function* function) {
    entries[at] = reinterpret_cast<void*>(function);
}

void placeAttributes(std::array<void*, kPlaces>& e) {
    place(e, kAttributeFloat, +[](KernelInfo const* info, char const*, float* value) {
        *value = info->scale;
        return fine();
    });
    place(e, kAttributeInt64, +[](KernelInfo const* info, char const* name, int64_t* value) {
        auto const found = info->numbers.find(name);
        if (found == info->numbers.end() || found->second.size() != 1) return failed("there is none");
        *value = found->second.front();
        return fine();
    });
    place(e, kAttributeString, +[](KernelInfo const* info, char const* name, char* out, size_t* size) {
        auto const found = info->texts.find(name);
        if (found == info->texts.end()) return failed("there is none");
        if (out != nullptr) std::memcpy(out, found->second.c_str(), found->second.size() + 1);
        *size = found->second.size() + 1;
        return fine();
    });
    place(e, kAttributeInts, +[](KernelInfo const* info, char const* name, int64_t* out, size_t* size) {
        auto const found = info->numbers.find(name);
        if (found == info->numbers.end()) return failed("there is none");
        if (out != nullptr) std::copy(found->second.begin(), found->second.end(), out);
        *size = found->second.size();
        return fine();
    });
    place(e, kKernelInfoGetAllocator, +[](KernelInfo const*, int32_t, Allocator** made) {
        ++allocators;
        *made = new Allocator{1, nullptr,
                              [](Allocator*, void* data) {
                                  --scratch;
                                  delete[] static_cast<char*>(data);
                              },
                              [](Allocator const*) -> MemoryInfo const* {
                                  static MemoryInfo const info;
                                  return &info;
                              }};
        return fine();
    });
    place(e, kReleaseAllocator, +[](Allocator* given) {
        --allocators;
        delete given;
    });
}

// As much as the widest type needs, and never nothing.
size_t bytesOf(TensorInfo const& info) {
    size_t bytes = 4;
    for (int64_t extent : info.extents) bytes *= static_cast<size_t>(extent);
    return bytes + 64;
}

void placeTensors(std::array<void*, kPlaces>& e) {
    place(e, kGetInput, +[](KernelContext const* context, size_t i, Value const** value) {
        *value = &context->inputs[i];
        return fine();
    });
    place(e, kGetTensorTypeAndShape, +[](Value const* value, TensorInfo** info) {
        ++infos;
        *info = new TensorInfo(value->info);
        return fine();
    });
    place(e, kReleaseTensorTypeAndShapeInfo, +[](TensorInfo* info) {
        --infos;
        delete info;
    });
    place(e, kGetTensorElementType, +[](TensorInfo const* info, int32_t* type) {
        *type = info->type;
        return fine();
    });
    place(e, kGetDimensionsCount, +[](TensorInfo const* info, size_t* rank) {
        *rank = info->extents.size();
        return fine();
    });
    place(e, kGetDimensions, +[](TensorInfo const* info, int64_t* extents, size_t rank) {
        std::copy_n(info->extents.begin(), rank, extents);
        return fine();
    });
    place(e, kGetTensorMutableData, +[](Value* value, void** data) {
        *data = value->bytes.data() + value->offset;
        return fine();
    });
    place(e, kGetOutput, +[](KernelContext* context, size_t, int64_t const* extents, size_t rank, Value** value) {
        context->output.info.extents.assign(extents, extents + rank);
        context->output.bytes.resize(bytesOf(context->output.info));
        *value = &context->output;
        return fine();
    });
    place(e, kGetGpuComputeStream, +[](KernelContext const*, void** found) {
        *found = &stream;
        return fine();
    });
    place(e, kGetScratchBuffer, +[](KernelContext const* context, MemoryInfo const* where, size_t bytes, void** data) {
        if (where == nullptr) return failed("memory of nowhere");
        ++scratch;
        const_cast<KernelContext*>(context)->scratch += static_cast<int64_t>(bytes);
        *data = new char[bytes];
        return fine();
    });
}

void placeShapes(std::array<void*, kPlaces>& e) {
    place(e, kShapeGetInput, +[](ShapeContext const* context, size_t, TensorInfo** info) {
        *info = const_cast<TensorInfo*>(&context->input);
        return fine();
    });
    place(e, kGetSymbolicDimensions, +[](TensorInfo const* info, char const** names, size_t rank) {
        std::copy_n(info->names.begin(), rank, names);
        return fine();
    });
    place(e, kShapeGetAttribute, +[](ShapeContext const* context, char const* name, OpAttribute const** attribute) {
        auto const found = context->numbers.find(name);
        if (found == context->numbers.end()) return failed("there is none");
        *attribute = &found->second;
        return fine();
    });
    place(e, kReadAttribute, +[](OpAttribute const* attribute, int32_t type, void* data, size_t room, size_t* bytes) {
        *bytes = sizeof attribute->number;
        if (type != kInt || room < *bytes) return failed("too little room");
        std::memcpy(data, &attribute->number, *bytes);
        return fine();
    });
    place(e, kCreateTensorTypeAndShapeInfo, +[](TensorInfo** info) {
        ++infos;
        *info = new TensorInfo();
        return fine();
    });
    place(e, kSetTensorElementType, +[](TensorInfo* info, int32_t type) {
        info->type = type;
        return fine();
    });
    place(e, kSetDimensions, +[](TensorInfo* info, int64_t const* extents, size_t rank) {
        info->extents.assign(extents, extents + rank);
        return fine();
    });
    place(e, kSetSymbolicDimensions, +[](TensorInfo* info, char const** names, size_t rank) {
        info->names.assign(names, names + rank);
        return fine();
    });
    place(e, kShapeSetOutput, +[](ShapeContext const* context, size_t, TensorInfo const* info) {
        const_cast<ShapeContext*>(context)->output = *info;
        return fine();
    });
}

Api const* table(uint32_t) noexcept {
    static auto* const entries = [] {
        auto* made = new std::array<void*, kPlaces>();
        made->fill(reinterpret_cast<void*>(unexpected));
        place(*made, kCreateStatus, +[](int32_t, char const* message) { return failed(message); });
        place(*made, kGetErrorMessage, +[](Status const* status) { return status->message.c_str(); });
        place(*made, kReleaseStatus, +[](Status* status) { delete status; });
        place(*made, kHasSessionConfigEntry, +[](SessionOptions const*, char const*, int32_t* there) {
            *there = 0;
            return fine();
        });
        place(*made, kAddSessionConfigEntry, +[](SessionOptions*, char const*, char const*) { return fine(); });
        place(*made, kCreateCustomOpDomain, +[](char const*, Domain** domain) {
            *domain = reinterpret_cast<Domain*>(&stream);
            return fine();
        });
        place(*made, kCustomOpDomainAdd, +[](Domain*, CustomOp const* op) {
            registered.push_back(op);
            return fine();
        });
        place(*made, kAddCustomOpDomain, +[](SessionOptions*, Domain*) { return fine(); });
        placeAttributes(*made);
        placeTensors(*made);
        placeShapes(*made);
        return made;
    }();
    return reinterpret_cast<Api const*>(entries->data());
}

char const* version() noexcept { return "1.32.0"; }

std::string spent(Status* status) {
    std::string const message = status == nullptr ? "" : status->message;
    delete status;
    return message;
}

CustomOp const* op(char const* name, char const* provider, int32_t type, int32_t maskType = kUndefined) {
    for (CustomOp const* found : registered) {
        bool const same = std::strcmp(found->name(found), name) == 0 && std::strcmp(found->provider(found), provider) == 0
            && found->inputType(found, 0) == type;
        if (same && (maskType == kUndefined || found->inputType(found, 4) == maskType)) return found;
    }
    return nullptr;
}

struct Kernel {
    CustomOp const* made;
    void* state = nullptr;
    std::string message;

    Kernel(CustomOp const* from, KernelInfo const& info) : made(from) {
        message = spent(made->createKernelV2(made, table(18), &info, &state));
    }
    Kernel(Kernel const&) = delete;
    ~Kernel() {
        if (state != nullptr) made->destroy(state);
    }
    std::string run(KernelContext& context) const { return spent(made->computeV2(state, &context)); }
};

}  // namespace
