// Messages go to TensorRT's own logger, if it has given us one, and otherwise to stderr.
#pragma once

namespace alibi {

void logError(char const* where, char const* message) noexcept;

}  // namespace alibi
