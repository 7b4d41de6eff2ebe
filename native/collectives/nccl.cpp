#include "collectives/nccl.h"

#include <stdexcept>

#include "core/dynamic.h"

namespace alibi::nccl {
namespace {

constexpr char const* kCure =
    "; install it with `pip install nvidia-nccl-cu13`, or name its libnccl.so.2 in ALIBI_NCCL_LIBRARY";

}  // namespace

Library::Library(std::string const& name) {
    std::string why;
    void* const library = openLibrary(name.c_str(), &why);
    if (library == nullptr) throw std::runtime_error("NCCL cannot be opened (" + why + ")" + kCure);
    auto const find = [&](auto& entry, char const* symbol) {
        if (!findFunction(library, symbol, entry)) throw std::runtime_error("'" + name + "' lacks " + symbol + kCure);
    };
    find(version, "ncclGetVersion");
    find(uniqueId, "ncclGetUniqueId");
    find(initRank, "ncclCommInitRank");
    find(deviceOf, "ncclCommCuDevice");
    find(asyncError, "ncclCommGetAsyncError");
    find(allReduce, "ncclAllReduce");
    find(allGather, "ncclAllGather");
    find(errorString, "ncclGetErrorString");
    findFunction(library, "ncclGetLastError", lastError);
    int32_t found = 0;
    require(version(&found), "ncclGetVersion");
    if (found < kOldest) {
        throw std::runtime_error("'" + name + "' is NCCL " + std::to_string(found) + ", and 2.10 or later is needed" + kCure);
    }
}

std::string Library::words(Result result, Handle communicator) const {
    char const* const said = errorString(result);
    std::string const found = said == nullptr ? std::to_string(result) : said;
    char const* const told = lastError == nullptr ? nullptr : lastError(communicator);
    std::string last = told == nullptr ? "" : told;
    // It ends with a line break now and then.
    while (!last.empty() && (last.back() == '\n' || last.back() == ' ')) last.pop_back();
    return last.empty() ? found : found + " (" + last + ")";
}

void Library::require(Result result, char const* what, Handle communicator) const {
    if (result == kSuccess) return;
    throw std::runtime_error(std::string(what) + " failed: " + words(result, communicator));
}

}  // namespace alibi::nccl
