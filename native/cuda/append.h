// Appending on a GPU: one launch for keys and values.  Lengths stay on the device, so runs can be captured into graphs.
#pragma once

#include <memory>

#include "core/append.h"
#include "cuda/driver.h"

namespace alibi::cuda {

// Loads the kernels into the context that is current.
std::shared_ptr<Program const> loadAppend();

// Enqueues a call: a copy of the buffers where present is not past, and the new rows.  What has no place in a buffer is
// not written.  Allocates nothing, does not synchronise.
void append(Program const& program, AppendCall const& call, void* stream);

}  // namespace alibi::cuda
