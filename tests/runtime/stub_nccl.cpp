// Stands in for libnccl.so.2: ranks are processes that exchange files, on memory of the host, and do as they are told.
//
//     STUB_NCCL_FOLDER    where they exchange
//     STUB_NCCL_VERSION   what ncclGetVersion says
//     STUB_NCCL_FAIL      the function that fails
//     STUB_NCCL_HANG      the function that never returns
//     STUB_NCCL_LOST      after so many collectives a rank is lost
//     STUB_NCCL_DEVICE    the device that it takes, in place of the current one
#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#define STUB extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kSystemError = 2;
constexpr int kRemoteError = 6;

struct Id {
    char bytes[128];
};

struct Communicator {
    std::string folder;
    int size = 0;
    int rank = 0;
    int device = 0;
    int calls = 0;
};

std::string said(char const* name) {
    char const* const found = std::getenv(name);
    return found == nullptr ? "" : found;
}

int status(char const* function) {
    if (said("STUB_NCCL_HANG") == function) {
        for (;;) ::pause();
    }
    return said("STUB_NCCL_FAIL") == function ? kSystemError : 0;
}

// What every rank has brought, in their order; waits for all.
std::vector<std::string> exchanged(Communicator& own, std::string const& content) {
    std::string const stem = own.folder + "/" + std::to_string(own.calls++) + ".";
    std::string const mine = stem + std::to_string(own.rank);
    std::ofstream(mine + ".tmp", std::ios::binary) << content;
    std::rename((mine + ".tmp").c_str(), mine.c_str());
    std::vector<std::string> all;
    for (int rank = 0; rank < own.size; ++rank) {
        std::ifstream file;
        for (file.open(stem + std::to_string(rank), std::ios::binary); !file.is_open();) {
            ::usleep(2000);
            file.open(stem + std::to_string(rank), std::ios::binary);
        }
        all.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return all;
}

template <typename Element>
void add(std::string& to, std::string const& from) {
    for (size_t place = 0; place + sizeof(Element) <= to.size(); place += sizeof(Element)) {
        Element a;
        Element b;
        std::memcpy(&a, &to[place], sizeof a);
        std::memcpy(&b, &from[place], sizeof b);
        a = static_cast<Element>(a + b);
        std::memcpy(&to[place], &a, sizeof a);
    }
}

size_t width(int type) { return type == 7 ? 4 : type == 6 || type == 9 ? 2 : 0; }

}  // namespace

STUB int ncclGetVersion(int* version) {
    std::string const told = said("STUB_NCCL_VERSION");
    *version = told.empty() ? 22703 : std::atoi(told.c_str());
    return status("ncclGetVersion");
}
STUB int ncclGetUniqueId(Id* id) {
    std::string const folder = said("STUB_NCCL_FOLDER");
    std::memset(id->bytes, 0, sizeof id->bytes);
    folder.copy(id->bytes, sizeof id->bytes - 1);
    return status("ncclGetUniqueId");
}
STUB int ncclCommInitRank(Communicator** made, int size, Id id, int rank) {
    if (int const failed = status("ncclCommInitRank")) return failed;
    *made = new Communicator{id.bytes, size, rank};
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuCtxGetDevice"))(&(*made)->device);
    exchanged(**made, "here");
    return 0;
}
STUB int ncclCommCuDevice(Communicator* own, int* device) {
    std::string const told = said("STUB_NCCL_DEVICE");
    *device = told.empty() ? own->device : std::atoi(told.c_str());
    return status("ncclCommCuDevice");
}
STUB int ncclCommGetAsyncError(Communicator* own, int* found) {
    std::string const told = said("STUB_NCCL_LOST");
    *found = !told.empty() && own->calls > std::atoi(told.c_str()) ? kRemoteError : 0;
    return status("ncclCommGetAsyncError");
}
STUB int ncclAllReduce(void const* from, void* to, size_t count, int type, int operation, Communicator* own, void* stream) {
    if (int const failed = status("ncclAllReduce")) return failed;
    if (width(type) == 0 || operation != 0 || stream == nullptr) return 4;
    std::vector<std::string> all = exchanged(*own, {static_cast<char const*>(from), count * width(type)});
    // Numbers of 16 bits are added as integers, which tells types apart as well.
    for (size_t rank = 1; rank < all.size(); ++rank) {
        if (type == 7) {
            add<float>(all[0], all[rank]);
        } else {
            add<uint16_t>(all[0], all[rank]);
        }
    }
    std::memcpy(to, all[0].data(), all[0].size());
    return 0;
}
#ifndef WITHOUT_GATHER
STUB int ncclAllGather(void const* from, void* to, size_t count, int type, Communicator* own, void* stream) {
    if (int const failed = status("ncclAllGather")) return failed;
    if (width(type) == 0 || stream == nullptr) return 4;
    auto* target = static_cast<char*>(to);
    for (std::string const& part : exchanged(*own, {static_cast<char const*>(from), count * width(type)})) {
        std::memcpy(target, part.data(), part.size());
        target += part.size();
    }
    return 0;
}
#endif
STUB char const* ncclGetErrorString(int result) {
    return result == kRemoteError ? "remote process exited or there was a network error" : "unhandled system error";
}
STUB char const* ncclGetLastError(Communicator*) { return "the stand-in was told so\n"; }
