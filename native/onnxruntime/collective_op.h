// Sums and concatenations over the ranks of a model that was cut, as custom ops: AlibiAllReduce and AlibiAllGather.
#pragma once

#include <vector>

#include "onnxruntime/abi.h"

namespace alibi::ort {

// For both providers.  Made once, never destroyed.
std::vector<CustomOp const*> const& collectiveOps();

}  // namespace alibi::ort
