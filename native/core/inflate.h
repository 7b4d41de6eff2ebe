// Decompression of DEFLATE data (RFC 1951), so that the library needs no zlib on the machine that deploys it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace alibi {

// Exactly `length` bytes; throws std::runtime_error if the data are damaged or hold more or less.
std::string inflate(std::string_view compressed, size_t length);

}  // namespace alibi
