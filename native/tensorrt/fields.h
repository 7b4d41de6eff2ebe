// From what TensorRT hands over to what the core understands.
#pragma once

#include "core/node.h"
#include "tensorrt/abi.h"

namespace alibi {

Type typeOf(int32_t dataType);

// The attributes of a node.  They point into `fields`.  Throws std::runtime_error if one is of a type that the
// specification does not give it.
Attributes attributesOf(Member const& member, abi::Fields const& fields);

// A tensor, checked for nothing.
Described describedAs(abi::TensorDesc const& desc);

}  // namespace alibi
