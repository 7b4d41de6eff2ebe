// The CUDA driver, found at run time: libcuda is never linked against, so the library loads where there is none.
#pragma once

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

// Throws std::runtime_error without a driver or a current context.
CurrentDevice currentDevice();

// Loads every kernel of the architecture that serves the device, now, so that no launch has to.
std::shared_ptr<Images const> loadImages(std::shared_ptr<Bundle const> bundle, Service service, void* context);

// Enqueues the launches of a plan.  Allocates nothing and does not synchronise.
void launch(Images const& images, Plan const& plan, Call const& call, void* workspace, void* stream);

// Enqueues zeros, for outputs over no keys.
void fillZero(void* pointer, size_t bytes, void* stream);

}  // namespace alibi
