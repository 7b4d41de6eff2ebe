// The CUDA driver, found at run time: libcuda is never linked against, so the library loads where there is none.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/plan.h"

namespace alibi {

// The images of one bundle, loaded into one CUDA context; shared by everybody who needs the same.
class Images;

// The device of the calling thread's current context.
struct CurrentDevice {
    void* context = nullptr;
    int32_t arch = 0;
    int64_t multiprocessors = 0;
};

// Whether there is a driver at all; asks it for nothing, so that nobody waits for a GPU that is not used.
bool driverPresent();

// The calling thread's current context, or null; throws std::runtime_error without a driver.
void* currentContext();

// Throws std::runtime_error without a driver or a current context.
CurrentDevice currentDevice();

// Makes a context current for a scope, unless it is already.
class CurrentContext {
public:
    explicit CurrentContext(void* context);
    CurrentContext(CurrentContext const&) = delete;
    CurrentContext& operator=(CurrentContext const&) = delete;
    ~CurrentContext();

private:
    bool pushed_ = false;
};

// Loads every kernel of the architecture that serves the device, now, so that no launch has to.
std::shared_ptr<Images const> loadImages(std::shared_ptr<Bundle const> bundle, Service service, void* context);

// Enqueues the launches of a plan.  Allocates nothing and does not synchronise.
void launch(Images const& images, Plan const& plan, Call const& call, void* workspace, void* stream);

// A few small kernels in PTX, which the driver compiles when they are loaded.
class Program;

// Loads them into the context that is current, once per context.  Throws std::runtime_error with one sentence.
std::shared_ptr<Program const> loadProgram(std::string const& ptx, std::vector<char const*> const& entries);
void* contextOf(Program const& program);

// Enqueues one of them by its place among the entries.
void launch(Program const& program, size_t entry, std::array<uint32_t, 2> blocks, uint32_t threads, void** parameters,
            void* stream);

// Enqueues a copy within the memory of the device.
void copy(void* target, void const* source, size_t bytes, void* stream);

// Enqueues zeros, for outputs over no keys.
void fillZero(void* pointer, size_t bytes, void* stream);

// The context that CUDA's runtime, and with it onnxruntime, uses on a device.  It is retained for good.
void* primaryContext(int32_t device);

// Enqueues a copy of rows that lie apart within the memory of the device.
void copyRows(void* to, size_t toPitch, void const* from, size_t fromPitch, size_t width, size_t height, void* stream);

}  // namespace alibi
