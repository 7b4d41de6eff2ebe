#include "tensorrt/logging.h"

#include <atomic>
#include <cstdio>

#include "tensorrt/abi.h"

namespace alibi {
namespace {

std::atomic<abi::LoggerFinder*> finder{nullptr};

}  // namespace

void logError(char const* where, char const* message) noexcept {
    char text[1024];
    std::snprintf(text, sizeof text, "alibi plugin, %s: %s", where, message);
    abi::LoggerFinder* const found = finder.load();
    abi::Logger* const logger = found == nullptr ? nullptr : found->find();
    if (logger != nullptr) {
        logger->log(abi::kError, text);
    } else {
        std::fprintf(stderr, "%s\n", text);
    }
}

}  // namespace alibi

// How TensorRT tells a plugin library where to log.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(alibi::abi::LoggerFinder* finder) {
    alibi::finder.store(finder);
}
