// Appending on the CPU, where the lengths can be read: what does not fit is an error, and nothing is written then.
#pragma once

#include "core/append.h"

namespace alibi::cpu {

// Throws std::runtime_error with one sentence that names the sequence if the new rows of one do not fit.
void append(AppendCall const& call);

}  // namespace alibi::cpu
