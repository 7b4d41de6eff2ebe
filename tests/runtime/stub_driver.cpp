// Stands in for libcuda.so.1: keeps the rules of the real one as far as they can be broken, and counts.
//
// What is not here cannot be called: nothing that waits for the GPU, and nothing that allocates on it.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <vector>

#include "stub_driver.h"

namespace {

std::mutex mutex;
StubCounts counts;
std::set<void*> modules;
thread_local std::vector<void*> contexts;

constexpr int kNoContext = 201;
constexpr int kInvalid = 1;

char primary[16];  // contexts of devices

char* bytesAt(uint64_t address) { return reinterpret_cast<char*>(static_cast<uintptr_t>(address)); }

void* current() { return contexts.empty() ? nullptr : contexts.back(); }

}  // namespace

#define STUB extern "C" __attribute__((visibility("default")))

STUB void stubContext(void* context) {
    contexts.clear();
    if (context != nullptr) contexts.push_back(context);
}
STUB StubCounts stubCounts() {
    std::lock_guard<std::mutex> const lock(mutex);
    StubCounts found = counts;
    found.modules = static_cast<int64_t>(modules.size());
    return found;
}
STUB void stubReset() {
    std::lock_guard<std::mutex> const lock(mutex);
    counts = {};
}

STUB int cuInit(unsigned) { return 0; }
STUB int cuGetErrorName(int status, char const** name) {
    *name = status == kNoContext ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_INVALID_VALUE";
    return 0;
}
STUB int cuCtxGetCurrent(void** context) {
    *context = current();
    return 0;
}
STUB int cuCtxGetDevice(int* device) {
    auto const* const found = static_cast<char const*>(current());
    bool const ofDevice = found >= primary && found < primary + sizeof primary;
    *device = ofDevice ? static_cast<int>(found - primary) : 0;
    return found == nullptr ? kNoContext : 0;
}
STUB int cuDeviceGetCount(int* count) {
    char const* const told = std::getenv("STUB_DEVICES");
    *count = told == nullptr ? 1 : std::atoi(told);
    return 0;
}
STUB int cuDeviceGet(int* device, int number) {
    *device = number;
    return 0;
}
STUB int cuDeviceGetName(char* name, int room, int) {
    std::strncpy(name, "a stand-in", static_cast<size_t>(room));
    return 0;
}
STUB int cuDevicePrimaryCtxRetain(void** context, int device) {
    *context = primary + device;
    return 0;
}
STUB int cuCtxGetId(void* context, unsigned long long* id) {
    *id = reinterpret_cast<uintptr_t>(context);
    return 0;
}
STUB int cuDeviceGetAttribute(int* value, int attribute, int) {
    char const* const arch = std::getenv("STUB_ARCH");
    int const number = arch == nullptr ? 90 : std::atoi(arch);
    *value = attribute == 16 ? 132 : attribute == 75 ? number / 10 : attribute == 76 ? number % 10 : -1;
    return *value < 0 ? kInvalid : 0;
}
STUB int cuCtxPushCurrent_v2(void* context) {
    contexts.push_back(context);
    return 0;
}
STUB int cuCtxPopCurrent_v2(void** context) {
    *context = current();
    if (contexts.empty()) return kNoContext;
    contexts.pop_back();
    return 0;
}
STUB int cuModuleLoadData(void** module, void const* image) {
    if (current() == nullptr) return kNoContext;
    std::lock_guard<std::mutex> const lock(mutex);
    *module = std::malloc(1 + static_cast<size_t>(*static_cast<unsigned char const*>(image)));
    modules.insert(*module);
    ++counts.loads;
    return 0;
}
STUB int cuModuleUnload(void* module) {
    std::lock_guard<std::mutex> const lock(mutex);
    if (modules.erase(module) == 0) return kInvalid;
    std::free(module);
    return 0;
}
STUB int cuModuleGetFunction(void** function, void* module, char const* name) {
    std::lock_guard<std::mutex> const lock(mutex);
    *function = module;
    return modules.count(module) == 0 || name[0] == '\0' ? kInvalid : 0;
}
STUB int cuFuncSetAttribute(void*, int, int) { return 0; }
STUB int cuFuncLoad(void*) { return 0; }
STUB int cuTensorMapEncodeTiled(void* map, int, unsigned rank, void* address, uint64_t const*, uint64_t const* strides,
                                unsigned const*, unsigned const*, int, int, int, int) {
    if (rank != 4 || reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(address) % 16 != 0) {
        return kInvalid;
    }
    std::memset(map, 7, 128);
    std::lock_guard<std::mutex> const lock(mutex);
    counts.mapped = reinterpret_cast<uintptr_t>(address);
    counts.headBytes = strides[1];
    return 0;
}
STUB int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                        void* stream, void** parameters, void**) {
    std::lock_guard<std::mutex> const lock(mutex);
    if (current() == nullptr) return kNoContext;
    if (modules.count(function) == 0 || x == 0 || y == 0 || z == 0 || threads == 0) return kInvalid;
    uint32_t first = 0;
    std::memcpy(&first, parameters[0], sizeof first);
    ++counts.launches;
    if (stream != nullptr) ++counts.onStream;
    return 0;
}
STUB int cuMemsetD8Async(uint64_t address, unsigned char, size_t bytes, void* stream) {
    std::lock_guard<std::mutex> const lock(mutex);
    ++counts.fills;
    return address == 0 || bytes == 0 || stream == nullptr ? kInvalid : 0;
}
STUB int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    if (current() == nullptr) return kNoContext;
    std::memcpy(bytesAt(to), bytesAt(from), bytes);
    return stream == nullptr ? kInvalid : 0;
}
STUB int cuMemcpy2DAsync_v2(void const* given, void* stream) {
    struct Side {
        size_t x, y;
        int memory;
        void* host;
        uint64_t device;
        void* array;
        size_t pitch;
    };
    struct Copy {
        Side from, to;
        size_t width, height;
    } copy;
    std::memcpy(&copy, given, sizeof copy);
    if (current() == nullptr) return kNoContext;
    if (copy.from.memory != 2 || copy.to.memory != 2 || copy.width > copy.from.pitch || copy.width > copy.to.pitch) return kInvalid;
    for (size_t row = 0; row < copy.height; ++row) {
        std::memcpy(bytesAt(copy.to.device + row * copy.to.pitch), bytesAt(copy.from.device + row * copy.from.pitch), copy.width);
    }
    return stream == nullptr ? kInvalid : 0;
}
