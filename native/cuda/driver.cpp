#include "cuda/driver.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>

#include "core/dynamic.h"

namespace alibi {
namespace {

using Status = int32_t;
using Context = void*;
using Module = void*;
using Function = void*;
using Address = uint64_t;

constexpr int32_t kMultiprocessors = 16;  // CUdevice_attribute
constexpr int32_t kMajor = 75;
constexpr int32_t kMinor = 76;
constexpr int32_t kMaxDynamicShared = 8;  // CUfunction_attribute
constexpr uint32_t kPlainShared = 48 * 1024;
constexpr int32_t kPromoteTo128Bytes = 2;  // CUtensorMapL2promotion

struct RowsCopy {  // CUDA_MEMCPY2D, with its places for hosts and arrays unused
    struct Side {
        size_t x = 0;
        size_t y = 0;
        int32_t memory = 2;  // CU_MEMORYTYPE_DEVICE
        void const* host = nullptr;
        Address device = 0;
        void* array = nullptr;
        size_t pitch = 0;
    };
    Side from;
    Side to;
    size_t width = 0;
    size_t height = 0;
};
static_assert(sizeof(RowsCopy) == 128 && offsetof(RowsCopy, to) == 56 && offsetof(RowsCopy, width) == 112);

void* driverLibrary() {
    static void* const found = openLibrary("libcuda.so.1");
    return found;
}

// Entry points by their names in the driver.
struct Driver {
    Status (*init)(uint32_t) = nullptr;
    Status (*errorName)(Status, char const**) = nullptr;
    Status (*currentContext)(Context*) = nullptr;
    Status (*currentDevice)(int32_t*) = nullptr;
    Status (*deviceAttribute)(int32_t*, int32_t, int32_t) = nullptr;
    Status (*pushContext)(Context) = nullptr;
    Status (*popContext)(Context*) = nullptr;
    Status (*loadModule)(Module*, void const*) = nullptr;
    Status (*unloadModule)(Module) = nullptr;
    Status (*function)(Function*, Module, char const*) = nullptr;
    Status (*functionAttribute)(Function, int32_t, int32_t) = nullptr;
    Status (*launch)(Function, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, void*, void**,
                     void**) = nullptr;
    Status (*fill)(Address, uint8_t, size_t, void*) = nullptr;
    Status (*copy)(Address, Address, size_t, void*) = nullptr;
    Status (*contextId)(Context, uint64_t*) = nullptr;  // since CUDA 12.0
    Status (*loadFunction)(Function) = nullptr;         // since CUDA 12.4
    Status (*encodeTiled)(void*, int32_t, uint32_t, void*, uint64_t const*, uint64_t const*, uint32_t const*,
                          uint32_t const*, int32_t, int32_t, int32_t, int32_t) = nullptr;  // since CUDA 12.0
    // Of collectives only.
    Status (*deviceCount)(int32_t*) = nullptr;
    Status (*device)(int32_t*, int32_t) = nullptr;
    Status (*primaryContext)(Context*, int32_t) = nullptr;
    Status (*copyRows)(RowsCopy const*, void*) = nullptr;
    std::string missing;

    Driver() {
        void* const library = driverLibrary();
        if (library == nullptr) {
            missing = "there is no CUDA driver (libcuda.so.1)";
            return;
        }
        auto const find = [&](auto& entry, char const* name, bool needed = true) {
            bool const there = findFunction(library, name, entry);
            if (!there && needed && missing.empty()) missing = std::string("the CUDA driver lacks ") + name;
        };
        find(init, "cuInit");
        find(errorName, "cuGetErrorName");
        find(currentContext, "cuCtxGetCurrent");
        find(currentDevice, "cuCtxGetDevice");
        find(deviceAttribute, "cuDeviceGetAttribute");
        find(pushContext, "cuCtxPushCurrent_v2");
        find(popContext, "cuCtxPopCurrent_v2");
        find(loadModule, "cuModuleLoadData");
        find(unloadModule, "cuModuleUnload");
        find(function, "cuModuleGetFunction");
        find(functionAttribute, "cuFuncSetAttribute");
        find(launch, "cuLaunchKernel");
        find(fill, "cuMemsetD8Async");
        find(copy, "cuMemcpyDtoDAsync_v2");
        find(contextId, "cuCtxGetId", false);
        find(loadFunction, "cuFuncLoad", false);
        find(encodeTiled, "cuTensorMapEncodeTiled", false);
        find(deviceCount, "cuDeviceGetCount", false);
        find(device, "cuDeviceGet", false);
        find(primaryContext, "cuDevicePrimaryCtxRetain", false);
        find(copyRows, "cuMemcpy2DAsync_v2", false);
        if (missing.empty() && init(0) != 0) missing = "the CUDA driver finds no device";
    }
};

Driver const& driver() {
    // Never destroyed: plugins may outlive the static objects of this library.
    static Driver const* const found = new Driver();
    if (!found->missing.empty()) throw std::runtime_error(found->missing);
    return *found;
}

void require(Status status, char const* what) {
    if (status == 0) return;
    char const* name = nullptr;
    driver().errorName(status, &name);
    throw std::runtime_error(std::string(what) + " failed: " + (name != nullptr ? name : std::to_string(status)));
}

// Every driver of the last ten years has these; stand-ins for one may not.
template <typename Function>
Function* needed(Function* entry, char const* name) {
    if (entry == nullptr) throw std::runtime_error(std::string("the CUDA driver lacks ") + name);
    return entry;
}

// A module in a context.  Images with the same content are loaded once per context, however many nodes carry them.
class LoadedModule {
public:
    LoadedModule(Context context, Blob const& blob) : context_(context) {
        require(driver().loadModule(&module_, blob.bytes.data()), "cuModuleLoadData");
    }
    LoadedModule(LoadedModule const&) = delete;
    LoadedModule& operator=(LoadedModule const&) = delete;
    ~LoadedModule() {
        // If the context is gone its modules went with it, and this fails harmlessly.
        if (driver().pushContext(context_) != 0) return;
        driver().unloadModule(module_);
        Context previous = nullptr;
        driver().popContext(&previous);
    }

    Module handle() const { return module_; }

private:
    Context context_;
    Module module_ = nullptr;
};

// An address of a context may be used again after its end, its number is not.
using ModuleKey = std::pair<uint64_t, std::array<uint8_t, 32>>;

uint64_t identity(Context context) {
    uint64_t id = 0;
    if (driver().contextId != nullptr && driver().contextId(context, &id) == 0) return id;
    return reinterpret_cast<uint64_t>(context);
}

struct ModuleCache {
    std::mutex mutex;
    std::map<ModuleKey, std::weak_ptr<LoadedModule const>> modules;
};

std::shared_ptr<LoadedModule const> loadModule(Context context, Blob const& blob) {
    static auto* const cache = new ModuleCache();  // never destroyed, as above
    std::lock_guard<std::mutex> const lock(cache->mutex);
    auto& slot = cache->modules[{identity(context), blob.sha256}];
    auto found = slot.lock();
    if (!found) {
        found = std::make_shared<LoadedModule const>(context, blob);
        slot = found;
    }
    return found;
}

struct alignas(64) EncodedMap {
    uint64_t words[16];
};

int32_t mapType(Type type) {  // CUtensorMapDataType
    switch (type) {
        case Type::float16: return 6;
        case Type::float32: return 7;
        default: return 9;
    }
}

int32_t mapSwizzle(uint32_t bytes) { return bytes == 0 ? 0 : bytes == 32 ? 1 : bytes == 64 ? 2 : 3; }

void encode(EncodedMap& map, TensorMap const& recipe, Operand const& operand) {
    if (driver().encodeTiled == nullptr) throw std::runtime_error("the CUDA driver lacks cuTensorMapEncodeTiled");
    auto const bytes = static_cast<uint64_t>(elementBytes(operand.type));
    uint64_t sizes[4];
    uint64_t strides[3];
    for (size_t i = 0; i < 4; ++i) sizes[i] = static_cast<uint64_t>(operand.shape[3 - i]);
    for (size_t i = 0; i < 3; ++i) strides[i] = bytes * static_cast<uint64_t>(operand.strides[2 - i]);
    uint32_t const ones[4] = {1, 1, 1, 1};
    require(driver().encodeTiled(&map, mapType(operand.type), 4, const_cast<void*>(operand.pointer), sizes, strides,
                                 recipe.box.data(), ones, 0, mapSwizzle(recipe.swizzleBytes), kPromoteTo128Bytes, 0),
            "cuTensorMapEncodeTiled");
}

constexpr size_t kMostArguments = 80;
constexpr size_t kMostMaps = 4;

}  // namespace

class Images {
public:
    Images(std::shared_ptr<Bundle const> bundle, Service service, Context context) : bundle_(std::move(bundle)) {
        functions_.resize(bundle_->kernels.size());
        for (size_t i = 0; i < functions_.size(); ++i) {
            Kernel const& kernel = bundle_->kernels[i];
            auto const blob = service.fromPtx ? kernel.ptx : kernel.cubin;
            if (kernel.arch != service.arch || !blob) continue;
            if (kernel.arguments.size() > kMostArguments) throw std::runtime_error(kernel.name + ": too many arguments");
            modules_.push_back(loadModule(context, bundle_->blobs[*blob]));
            Function function = nullptr;
            require(driver().function(&function, modules_.back()->handle(), kernel.entry.c_str()),
                    "cuModuleGetFunction");
            if (kernel.sharedBytes > kPlainShared) {
                require(driver().functionAttribute(function, kMaxDynamicShared, static_cast<int32_t>(kernel.sharedBytes)),
                        "raising the shared memory of a kernel");
            }
            // With lazy loading the first launch would load, which a stream capture forbids.
            if (driver().loadFunction != nullptr) require(driver().loadFunction(function), "cuFuncLoad");
            functions_[i] = function;
        }
    }

    Function function(Kernel const& kernel) const { return functions_[static_cast<size_t>(&kernel - bundle_->kernels.data())]; }

private:
    std::shared_ptr<Bundle const> bundle_;
    std::vector<std::shared_ptr<LoadedModule const>> modules_;
    std::vector<Function> functions_;
};

bool driverPresent() { return driverLibrary() != nullptr; }

void* currentContext() {
    Context found = nullptr;
    require(driver().currentContext(&found), "cuCtxGetCurrent");
    return found;
}

CurrentContext::CurrentContext(void* context) {
    if (currentContext() == context) return;
    require(driver().pushContext(context), "cuCtxPushCurrent");
    pushed_ = true;
}

CurrentContext::~CurrentContext() {
    Context previous = nullptr;
    if (pushed_) driver().popContext(&previous);
}

CurrentDevice currentDevice() {
    CurrentDevice found;
    int32_t device = 0;
    found.context = currentContext();
    if (found.context == nullptr) throw std::runtime_error("no CUDA context is current");
    require(driver().currentDevice(&device), "cuCtxGetDevice");
    int32_t major = 0;
    int32_t minor = 0;
    int32_t multiprocessors = 0;
    require(driver().deviceAttribute(&major, kMajor, device), "cuDeviceGetAttribute");
    require(driver().deviceAttribute(&minor, kMinor, device), "cuDeviceGetAttribute");
    require(driver().deviceAttribute(&multiprocessors, kMultiprocessors, device), "cuDeviceGetAttribute");
    found.arch = 10 * major + minor;
    found.multiprocessors = multiprocessors;
    return found;
}

std::shared_ptr<Images const> loadImages(std::shared_ptr<Bundle const> bundle, Service service, void* context) {
    return std::make_shared<Images const>(std::move(bundle), service, context);
}

void launch(Images const& images, Plan const& plan, Call const& call, void* workspace, void* stream) {
    using Kind = Argument::Kind;
    // Parameters are copied by cuLaunchKernel before it returns, so they may live on the stack.
    union Cell {
        void const* pointer;
        int64_t int64;
        int32_t int32;
        float float32;
    };
    Cell cells[kMostArguments];
    EncodedMap maps[kMostMaps];
    void* parameters[kMostArguments];
    for (Launch const& step : plan.launches) {
        size_t mapsUsed = 0;
        size_t place = 0;
        for (Argument const& argument : step.kernel->arguments) {
            Cell& cell = cells[place];
            parameters[place] = &cell;
            switch (argument.kind) {
                case Kind::tensor: cell.pointer = call.operands[argument.name].pointer; break;
                case Kind::scratch: cell.pointer = static_cast<char*>(workspace) + plan.offsets[argument.name]; break;
                case Kind::tensorMap:
                    if (mapsUsed == kMostMaps) throw std::runtime_error("too many bulk-copy descriptors");
                    encode(maps[mapsUsed], argument.map, call.operands[argument.name]);
                    parameters[place] = &maps[mapsUsed++];
                    break;
                case Kind::sizeInt32:
                case Kind::strideInt32: {
                    int64_t const value = argument.kind == Kind::sizeInt32 ? plan.sizes[argument.name]
                                                                           : plan.strides[argument.name];
                    if (value != static_cast<int32_t>(value)) throw std::runtime_error("a size is beyond 32 bits");
                    cell.int32 = static_cast<int32_t>(value);
                    break;
                }
                case Kind::strideInt64: cell.int64 = plan.strides[argument.name]; break;
                case Kind::scale: cell.float32 = call.scale; break;
                case Kind::windowLeft: cell.int32 = static_cast<int32_t>(call.windowLeft); break;
                case Kind::windowRight: cell.int32 = static_cast<int32_t>(call.windowRight); break;
                case Kind::rowsFirst: cell.int32 = call.rowsFirst ? 1 : 0; break;
                case Kind::emptyMean: cell.int32 = call.emptyMean ? 1 : 0; break;
                case Kind::zero32:
                case Kind::zero64: cell.int64 = 0; break;
            }
            ++place;
        }
        Kernel const& kernel = *step.kernel;
        require(driver().launch(images.function(kernel), step.grid[0], step.grid[1], step.grid[2], kernel.threads, 1, 1,
                                kernel.sharedBytes, stream, parameters, nullptr),
                "cuLaunchKernel");
    }
}

class Program {
public:
    Program(Context context, std::string const& ptx, std::vector<char const*> const& entries) : context_(context) {
        require(driver().loadModule(&module_, ptx.c_str()), "cuModuleLoadData");
        for (char const* const entry : entries) {
            Function function = nullptr;
            require(driver().function(&function, module_, entry), "cuModuleGetFunction");
            if (driver().loadFunction != nullptr) require(driver().loadFunction(function), "cuFuncLoad");
            functions_.push_back(function);
        }
    }

    Context context() const { return context_; }
    Function function(size_t entry) const { return functions_[entry]; }

private:
    // Small, and there as long as the context is: it is never unloaded.
    Context context_;
    Module module_ = nullptr;
    std::vector<Function> functions_;
};

std::shared_ptr<Program const> loadProgram(std::string const& ptx, std::vector<char const*> const& entries) {
    struct Cache {
        std::mutex mutex;
        std::map<std::pair<uint64_t, std::string>, std::shared_ptr<Program const>> programs;
    };
    static auto* const cache = new Cache();  // never destroyed: sessions may outlive the static objects of this library
    Context const context = currentContext();
    if (context == nullptr) throw std::runtime_error("no CUDA context is current");
    std::lock_guard<std::mutex> const lock(cache->mutex);
    auto& slot = cache->programs[{identity(context), ptx}];
    if (!slot) slot = std::make_shared<Program const>(context, ptx, entries);
    return slot;
}

void* contextOf(Program const& program) { return program.context(); }

void launch(Program const& program, size_t entry, std::array<uint32_t, 2> blocks, uint32_t threads, void** parameters,
            void* stream) {
    require(driver().launch(program.function(entry), blocks[0], blocks[1], 1, threads, 1, 1, 0, stream, parameters, nullptr),
            "cuLaunchKernel");
}

void copy(void* target, void const* source, size_t bytes, void* stream) {
    require(driver().copy(reinterpret_cast<Address>(target), reinterpret_cast<Address>(source), bytes, stream),
            "cuMemcpyDtoDAsync");
}

void fillZero(void* pointer, size_t bytes, void* stream) {
    require(driver().fill(reinterpret_cast<Address>(pointer), 0, bytes, stream), "cuMemsetD8Async");
}

void* primaryContext(int32_t number) {
    int32_t count = 0;
    require(needed(driver().deviceCount, "cuDeviceGetCount")(&count), "cuDeviceGetCount");
    if (number < 0 || number >= count) {
        throw std::runtime_error("there is no GPU " + std::to_string(number) + ": the CUDA driver shows "
                                 + std::to_string(count));
    }
    int32_t device = 0;
    Context found = nullptr;
    require(needed(driver().device, "cuDeviceGet")(&device, number), "cuDeviceGet");
    require(needed(driver().primaryContext, "cuDevicePrimaryCtxRetain")(&found, device), "cuDevicePrimaryCtxRetain");
    return found;
}

void copyRows(void* to, size_t toPitch, void const* from, size_t fromPitch, size_t width, size_t height, void* stream) {
    RowsCopy rows;
    rows.from.device = reinterpret_cast<Address>(from);
    rows.from.pitch = fromPitch;
    rows.to.device = reinterpret_cast<Address>(to);
    rows.to.pitch = toPitch;
    rows.width = width;
    rows.height = height;
    require(needed(driver().copyRows, "cuMemcpy2DAsync")(&rows, stream), "cuMemcpy2DAsync");
}

}  // namespace alibi
