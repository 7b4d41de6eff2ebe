// What onnxruntime calls when a session's options are told to use this library.
#include <charconv>
#include <cstring>
#include <string_view>

#include "collectives/communicator.h"
#include "onnxruntime/ask.h"
#include "onnxruntime/collective_op.h"
#include "onnxruntime/op.h"

namespace alibi::ort {
namespace {

constexpr char const* kDomain = "alibi";
constexpr char const* kSkipKey = "alibi.skip";
constexpr char const* kRegisteredKey = "alibi.registered";  // left in the options; a session takes a domain only once
constexpr int kOldestMinor = 20;

// Reads "1.32.0"; throws with one sentence unless it is a version whose interface is known.
void expectKnown(char const* version) {
    int major = 0;
    int minor = 0;
    // Not sscanf: compiled with a C library from 2.38 on it asks for a symbol that older ones lack.
    char const* const begin = version == nullptr ? "" : version;
    char const* const end = begin + std::strlen(begin);
    auto const first = std::from_chars(begin, end, major);
    bool const point = first.ec == std::errc() && first.ptr != end && *first.ptr == '.';
    bool const read = point && std::from_chars(first.ptr + 1, end, minor).ec == std::errc();
    if (read && major == 1 && minor >= kOldestMinor) return;
    throw std::runtime_error("libalibi_onnxruntime.so works with onnxruntime 1.20 and later versions 1.x; this is "
                             + (version == nullptr ? std::string("an unknown version") : std::string(version).substr(0, 40)));
}

bool has(Table const& table, SessionOptions const* options, char const* key) {
    int32_t there = 0;
    table.call(kHasSessionConfigEntry, options, key, &there);
    return there != 0;
}

cpu::Skipping skippingOf(Table const& table, SessionOptions const* options) {
    if (!has(table, options, kSkipKey)) return cpu::Skipping::underflow;
    char value[16] = {};
    size_t size = sizeof value;
    bool const fits = table.tried(kGetSessionConfigEntry, options, kSkipKey, static_cast<char*>(value), &size);
    if (fits && std::strcmp(value, "none") == 0) return cpu::Skipping::none;
    if (fits && std::strcmp(value, "underflow") == 0) return cpu::Skipping::underflow;
    if (fits && std::strcmp(value, "certified") == 0) return cpu::Skipping::certified;
    throw std::runtime_error(std::string("session configuration '") + kSkipKey
                             + "' is neither 'none' nor 'underflow' nor 'certified'");
}

void registerAll(Table const& table, SessionOptions* options) {
    if (has(table, options, kRegisteredKey)) return;
    Ops const& onCpu = cpuOps(skippingOf(table, options));
    Ops const* const onGpu = cudaOps();
    Domain* domain = nullptr;
    table.call(kCreateCustomOpDomain, kDomain, &domain);
    try {
        for (Ops const* ops : {&onCpu, onGpu}) {
            if (ops == nullptr) continue;
            for (auto const& op : *ops) table.call(kCustomOpDomainAdd, domain, static_cast<CustomOp const*>(op.get()));
        }
        for (CustomOps const* ops : {&cpuAppendOps(), cudaAppendOps()}) {
            if (ops == nullptr) continue;
            for (CustomOp const* op : *ops) table.call(kCustomOpDomainAdd, domain, op);
        }
        for (CustomOp const* op : collectiveOps()) table.call(kCustomOpDomainAdd, domain, op);
        table.call(kAddSessionConfigEntry, options, kRegisteredKey, "1");
        table.call(kAddCustomOpDomain, options, domain);
    } catch (...) {
        table.release(kReleaseCustomOpDomain, domain);
        throw;
    }
    // The options keep a pointer to the domain, and onnxruntime does not say when the last session is closed.
}

// `body`, with an exception as a sentence that is cut where there is no room: 0 if there was none.
template <typename Body>
int32_t told(char* message, size_t room, Body const& body) noexcept {
    try {
        body();
        return 0;
    } catch (std::exception const& error) {
        if (room > 0) message[std::string_view(error.what()).copy(message, room - 1)] = '\0';
    } catch (...) {
        if (room > 0) message[std::string_view("unknown error").copy(message, room - 1)] = '\0';
    }
    return 1;
}

}  // namespace

}  // namespace alibi::ort

#define ALIBI_EXPORT extern "C" __attribute__((visibility("default")))

ALIBI_EXPORT alibi::ort::Status* RegisterCustomOps(alibi::ort::SessionOptions* options,
                                                   alibi::ort::ApiBase const* base) noexcept {
    using namespace alibi::ort;
    // An older runtime prints to stderr when it is asked for an interface that it does not have: read its version first.
    Table const first(base->get(kFirstApi));
    return first.guarded(kNotImplemented, [&] {
        expectKnown(base->version());
        Api const* const api = base->get(kApiVersion);
        if (api == nullptr) throw std::runtime_error("onnxruntime does not offer the interface of its version 1.18");
        rememberTable(api);
        registerAll(Table(api), options);
    });
}

// How many nodes the calling thread has made kernels for (``claimedHere``).
ALIBI_EXPORT int64_t alibiClaimedNodes() noexcept { return alibi::ort::claimedHere(); }

// The instruction set of the CPU kernels, and another one for tests: 1 if it is there.
ALIBI_EXPORT char const* alibiInstructionSet() noexcept { return alibi::cpu::instructionSet(); }
ALIBI_EXPORT int32_t alibiUseInstructionSet(char const* name) noexcept {
    return alibi::cpu::useInstructionSet(name) ? 1 : 0;
}

// For runtime/collectives: a new id of NCCL; this process's communicator, which waits for all ranks; what went wrong
// behind it since; and its end, after which nodes refuse to run.  They return 0, or 1 with a sentence.
ALIBI_EXPORT int32_t alibiNewId(char const* library, char* id, char* message, size_t room) noexcept {
    return alibi::ort::told(message, room, [&] {
        auto const made = alibi::collectives::newId(library);
        std::memcpy(id, made.bytes, sizeof made.bytes);
    });
}
ALIBI_EXPORT int32_t alibiConnect(char const* library, char const* id, int32_t rank, int32_t size, int32_t device,
                                  char* message, size_t room) noexcept {
    return alibi::ort::told(message, room, [&] {
        alibi::nccl::UniqueId given;
        std::memcpy(given.bytes, id, sizeof given.bytes);
        alibi::collectives::connect(library, given, rank, size, device);
    });
}
ALIBI_EXPORT int32_t alibiConnectionProblem(char* message, size_t room) noexcept {
    return alibi::ort::told(message, room, [] {
        auto const* const communicator = alibi::collectives::current();
        if (communicator == nullptr) return;
        std::string const problem = communicator->problem();
        if (!problem.empty()) throw std::runtime_error(problem);
    });
}
ALIBI_EXPORT int32_t alibiDisconnect(char* message, size_t room) noexcept {
    return alibi::ort::told(message, room, [] { alibi::collectives::disconnect(); });
}
