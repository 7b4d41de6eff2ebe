// The kernels of a node on one device: loaded once, launched from any thread.  What every front that runs on a GPU shares.
#pragma once

#include <memory>

#include "core/node.h"
#include "cuda/driver.h"

namespace alibi::cuda {

// Immutable once made.
struct Kernels {
    CurrentDevice device;
    Service service;
    std::shared_ptr<Images const> images;
};

// Loads the attached kernels of a node into the context that is current.  Throws std::runtime_error with one sentence
// if none is, or if no attached kernel runs on its device.
std::shared_ptr<Kernels const> load(Node const& node);

// The launches of a call on that device; `alternative` as for makePlan.
Plan plan(Node const& node, Kernels const& kernels, Call const& call, int32_t alternative = 0);

// Enqueues a call; an output over no keys becomes zeros.  Allocates nothing, does not synchronise.
void enqueue(Kernels const& kernels, Plan const& plan, Call const& call, void* workspace, void* stream);

}  // namespace alibi::cuda
