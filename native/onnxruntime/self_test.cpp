// Proves, in the binary that was built, that it registers with a runtime of our own making and that its kernels compute.
//
// The table has a function at every place; one that is called where none is expected says so by its number.
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/append.h"
#include "onnxruntime/op.h"

extern "C" alibi::ort::Status* RegisterCustomOps(alibi::ort::SessionOptions*, alibi::ort::ApiBase const*) noexcept;

namespace alibi::ort {
namespace {

struct Record {
    size_t ops = 0;
    size_t collectives = 0;
    bool added = false;
    bool known = true;
    std::string message;
};
Record record;

Status* unexpected() {
    record.known = false;
    return nullptr;
}

std::array<void*, kPlaces>& entries() {
    static std::array<void*, kPlaces> made;
    return made;
}

template <typename Function>
void place(Place at, Function* function) {
    entries()[at] = reinterpret_cast<void*>(function);
}

// A sum or a concatenation over ranks: one tensor in, and one of its type out.
bool isCollective(CustomOp const* op) {
    bool const named = std::strcmp(op->name(op), "AlibiAllReduce") == 0 || std::strcmp(op->name(op), "AlibiAllGather") == 0;
    return named && op->version == kApiVersion && op->inputCount(op) == 1 && op->outputType(op, 0) == op->inputType(op, 0);
}

Api const* table(uint32_t) noexcept {
    entries().fill(reinterpret_cast<void*>(unexpected));
    place(kCreateStatus, +[](int32_t, char const* message) {
        record.message = message;
        return reinterpret_cast<Status*>(&record);
    });
    place(kHasSessionConfigEntry, +[](SessionOptions const*, char const*, int32_t* there) {
        *there = 0;
        return static_cast<Status*>(nullptr);
    });
    place(kAddSessionConfigEntry,
          +[](SessionOptions*, char const*, char const*) { return static_cast<Status*>(nullptr); });
    place(kCreateCustomOpDomain, +[](char const* name, Domain** domain) {
        record.known = record.known && std::strcmp(name, "alibi") == 0;
        *domain = reinterpret_cast<Domain*>(&record);
        return static_cast<Status*>(nullptr);
    });
    place(kCustomOpDomainAdd, +[](Domain*, CustomOp const* op) {
        size_t const inputs = op->inputCount(op);
        if (isCollective(op)) {
            ++record.collectives;
            return static_cast<Status*>(nullptr);
        }
        bool const appends = std::strcmp(op->name(op), kAppendOp) == 0;
        record.known = record.known && op->version == kApiVersion && inputs >= 4 && inputs <= 7
            && op->inputType(op, 3) == (appends ? op->inputType(op, 0) : kFloat)
            && op->outputType(op, 0) == op->inputType(op, 0)
            && (appends || std::strncmp(op->name(op), "AlibiAttention", 14) == 0);
        ++record.ops;
        return static_cast<Status*>(nullptr);
    });
    place(kAddCustomOpDomain, +[](SessionOptions*, Domain*) {
        record.added = true;
        return static_cast<Status*>(nullptr);
    });
    return reinterpret_cast<Api const*>(entries().data());
}

char const* oldVersion() noexcept { return "1.19.2"; }
char const* newVersion() noexcept { return "1.99.0"; }

class Alone final : public cpu::Threads {
public:
    void run(int64_t count, void (*task)(void*, size_t), void* context) override {
        for (int64_t i = 0; i < count; ++i) task(context, static_cast<size_t>(i));
    }
};

// A causal attention over a few keys against its definition; `rows` decides between the two paths.
bool computes(int64_t rows) {
    constexpr int64_t kWidth = 5;
    auto const n = static_cast<size_t>(rows * kWidth);
    std::vector<float> q(n), k(n), v(n), out(n);
    for (size_t i = 0; i < n; ++i) {
        q[i] = std::sin(static_cast<float>(i));
        k[i] = std::cos(static_cast<float>(3 * i));
        v[i] = std::sin(static_cast<float>(7 * i + 1));
    }
    float const slope = 0.25F;
    Call call;
    call.scale = 0.5F;
    auto const wide = [&](Tensor tensor, float* data) {
        call[tensor] = {data, Type::float32, {1, 1, rows, kWidth}, {rows * kWidth, rows * kWidth, kWidth, 1}, true};
    };
    wide(Tensor::query, q.data());
    wide(Tensor::key, k.data());
    wide(Tensor::value, v.data());
    wide(Tensor::output, out.data());
    call[Tensor::slopes] = {&slope, Type::float32, {1}, {1}, true};
    Alone alone;
    cpu::attention(call, family().front(), cpu::Skipping::none, alone);
    for (int64_t i = 0; i < rows; ++i) {
        double sum = 0;
        std::array<double, kWidth> wanted{};
        for (int64_t j = 0; j <= i; ++j) {
            float score = slope * static_cast<float>(j - i);
            for (int64_t d = 0; d < kWidth; ++d) score += 0.5F * q[static_cast<size_t>(i * kWidth + d)] * k[static_cast<size_t>(j * kWidth + d)];
            sum += std::exp(score);
            for (int64_t d = 0; d < kWidth; ++d) wanted[static_cast<size_t>(d)] += std::exp(score) * v[static_cast<size_t>(j * kWidth + d)];
        }
        for (int64_t d = 0; d < kWidth; ++d) {
            double const error = wanted[static_cast<size_t>(d)] / sum - out[static_cast<size_t>(i * kWidth + d)];
            if (!(std::fabs(error) < 1e-5)) return false;
        }
    }
    return true;
}

}  // namespace
}  // namespace alibi::ort

// 0 if all is as it has to be, otherwise the number of the first check that failed.
extern "C" __attribute__((visibility("default"))) int32_t alibiSelfTest() noexcept {
    using namespace alibi::ort;
    ApiBase const old{table, oldVersion};
    record = {};
    if (RegisterCustomOps(nullptr, &old) == nullptr || record.ops != 0) return 1;
    if (record.message.find("1.19.2") == std::string::npos) return 2;
    ApiBase const fresh{table, newVersion};
    record = {};
    if (RegisterCustomOps(nullptr, &fresh) != nullptr) return 3;
    if (!record.known || !record.added) return 4;
    // Twice where there is a CUDA driver: for its provider as well.
    size_t const ops = cpuOps(alibi::cpu::Skipping::underflow).size() + cpuAppendOps().size();
    if (record.ops != (cudaOps() == nullptr ? ops : 2 * ops)) return 5;
    if (record.collectives != (cudaOps() == nullptr ? 6 : 12)) return 7;
    std::string const before = alibi::cpu::instructionSet();
    int32_t failed = 0;
    for (char const* name : {"avx512", "avx2", "portable"}) {
        if (!alibi::cpu::useInstructionSet(name)) continue;
        if (failed == 0 && (!computes(3) || !computes(150))) failed = 6;
    }
    alibi::cpu::useInstructionSet(before);
    return failed;
}
