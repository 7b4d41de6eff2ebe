#include "core/plan.h"

#include <algorithm>
#include <stdexcept>

namespace alibi {
namespace {

constexpr int64_t kMostExtent = int64_t{1} << 31;  // of one axis

[[noreturn]] void refuse(std::string const& what) { throw std::runtime_error(what); }

void expectWidth(char const* name, int64_t width, int64_t compiled) {
    if (width == compiled) return;
    refuse(std::string(name) + " is " + std::to_string(width) + " wide, but the kernels were compiled for "
           + std::to_string(compiled));
}

void checkFits(Bundle const& bundle, Call const& call) {
    check(call);
    expectWidth("query", call.width(), bundle.headDim);
    expectWidth("value", call.valueWidth(), bundle.valueDim);
    if (call[Tensor::query].type != bundle.dtype) {
        refuse(std::string("query is of type ") + nameOf(call[Tensor::query].type)
               + ", but the kernels were compiled for " + nameOf(bundle.dtype));
    }
    Operand const& mask = call[Tensor::mask];
    if (mask.type != bundle.maskType) refuse("the mask is not what the kernels were compiled for");
}

void setStrides(Plan& plan, Call const& call) {
    auto stride = [&](Stride name) -> int64_t& { return plan.strides[static_cast<size_t>(name)]; };
    constexpr Tensor kWide[] = {Tensor::query, Tensor::key, Tensor::value, Tensor::output};
    size_t place = 0;
    for (Tensor tensor : kWide) {
        for (size_t axis = 0; axis < 3; ++axis) plan.strides[place++] = call[tensor].strides[axis];
    }
    Operand const& mask = call[Tensor::mask];
    for (size_t axis = 0; axis < 4; ++axis) {
        plan.strides[static_cast<size_t>(Stride::mask_batch) + axis] = mask.broadcast(axis);
    }
    stride(Stride::bias_batch) = call[Tensor::key_bias].broadcast(0);
    stride(Stride::bias_head) = call[Tensor::key_bias].broadcast(1);
    stride(Stride::lengths_batch) = call[Tensor::key_lengths].broadcast(0);
    stride(Stride::positions_batch) = call[Tensor::key_positions].broadcast(0);
}

bool multiple(void const* pointer, int64_t of) { return reinterpret_cast<uintptr_t>(pointer) % static_cast<uint64_t>(of) == 0; }

// Whether an argument is a multiple of what the image was compiled for.
bool aligned(Argument const& argument, Plan const& plan, Call const& call) {
    switch (argument.kind) {
        case Argument::Kind::tensorMap: {
            Operand const& operand = call.operands[argument.name];
            int64_t const bytes = elementBytes(operand.type);
            bool fits = multiple(operand.pointer, 16);
            for (size_t axis = 0; axis < 3; ++axis) fits = fits && operand.strides[axis] * bytes % 16 == 0;
            return fits;
        }
        case Argument::Kind::tensor: return multiple(call.operands[argument.name].pointer, argument.multipleOf);
        case Argument::Kind::sizeInt32: return plan.sizes[argument.name] % argument.multipleOf == 0;
        case Argument::Kind::strideInt32:
        case Argument::Kind::strideInt64: return plan.strides[argument.name] % argument.multipleOf == 0;
        default: return true;
    }
}

struct Layout {
    bool contiguous;
    bool maskRows;
    bool maskDense;
};

Layout layoutOf(Bundle const& bundle, Plan const& plan) {
    auto const stride = [&](Stride name) { return plan.strides[static_cast<size_t>(name)]; };
    bool const contiguous = stride(Stride::query_row) == bundle.headDim && stride(Stride::key_row) == bundle.headDim
        && stride(Stride::value_row) == bundle.valueDim && stride(Stride::output_row) == bundle.valueDim;
    return {contiguous, stride(Stride::mask_head) != 0 || stride(Stride::mask_row) != 0,
            stride(Stride::mask_column) == 1};
}

char const* roleName(Role role) {
    constexpr char const* kNames[] = {"prefill", "decode", "split decode", "combining", "key norm", "reach",
                                      "mask block", "extending"};
    return kNames[static_cast<size_t>(role)];
}

class Chooser {
public:
    Chooser(Bundle const& bundle, Call const& call, Device const& device, Plan const& plan)
        : bundle_(bundle), call_(call), device_(device), plan_(plan), layout_(layoutOf(bundle, plan)) {}

    // The first kernel of a role that fits, or the `skip`-th one, or the last; null if none does.
    Kernel const* find(Role role, int32_t skip = 0) const {
        Kernel const* found = nullptr;
        for (Kernel const& kernel : bundle_.kernels) {
            if (kernel.role != role || !fits(kernel)) continue;
            found = &kernel;
            if (skip-- == 0) break;
        }
        return found;
    }

    // The same; throws if none does.
    Kernel const& choose(Role role, int32_t skip = 0) const {
        Kernel const* found = find(role, skip);
        if (found == nullptr) {
            refuse(std::string("no attached ") + roleName(role) + " kernel for sm_" + std::to_string(device_.service.arch)
                   + " fits this call (strides, alignment or sizes)");
        }
        return *found;
    }

private:
    bool fits(Kernel const& kernel) const {
        if (kernel.arch != device_.service.arch || !(device_.service.fromPtx ? kernel.ptx : kernel.cubin)) return false;
        if (kernel.contiguous && !layout_.contiguous) return false;
        if (!kernel.maskRows && layout_.maskRows) return false;
        if (kernel.maskDense && !layout_.maskDense) return false;
        return std::all_of(kernel.conditions.begin(), kernel.conditions.end(),
                           [&](Condition const& condition) { return condition.holds(plan_.sizes); })
            && std::all_of(kernel.arguments.begin(), kernel.arguments.end(),
                           [&](Argument const& argument) { return aligned(argument, plan_, call_); });
    }

    Bundle const& bundle_;
    Call const& call_;
    Device const& device_;
    Plan const& plan_;
    Layout layout_;
};

// How many chunks there are, where ``places`` programs run at a time and ``programs`` of them make one chunk.
int64_t splitsOf(Bundle const& bundle, int64_t programs, int64_t sKv, int64_t places) {
    Selection const& selection = bundle.selection;
    int64_t const most = std::max<int64_t>(1, std::min(selection.maxSplits, sKv / selection.minKeys));
    return std::max<int64_t>(1, std::min(most, places / programs));
}

int64_t padded(int64_t bytes) {
    return sum(bytes, kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
}

int64_t bytesOf(Buffer const& buffer, Sizes const& sizes) {
    return padded(product(buffer.elementBytes, buffer.extent.value(sizes)));
}

// By how many per cent tiles of 192 rows take less than those of 128 (kernels/launch/description.py).
int64_t wideSaves(int64_t pairs, int64_t sQ, int64_t multiprocessors) {
    auto const rounds = [&](int64_t rows) {
        int64_t const tiles = product(pairs, sum(sQ, rows - 1) / rows);
        return sum(tiles, multiprocessors - 1) / multiprocessors;
    };
    // A round of the wide ones takes three times 64 rows, one of the others twice.
    int64_t const narrow = product(2, rounds(128));
    int64_t const wide = product(3, rounds(192));
    return wide < narrow ? product(100, narrow - wide) / narrow : 0;
}

Sizes sizesOf(Bundle const& bundle, int64_t batch, int64_t heads, int64_t kvHeads, int64_t sQ, int64_t sKv,
              int64_t multiprocessors) {
    Sizes sizes{};
    int64_t const group = heads / std::max<int64_t>(1, kvHeads);
    at(sizes, Size::batch) = batch;
    at(sizes, Size::heads) = heads;
    at(sizes, Size::kv_heads) = kvHeads;
    at(sizes, Size::group) = group;
    at(sizes, Size::s_q) = sQ;
    at(sizes, Size::s_kv) = sKv;
    at(sizes, Size::head_dim) = bundle.headDim;
    at(sizes, Size::value_dim) = bundle.valueDim;
    at(sizes, Size::splits) = 1;
    at(sizes, Size::multiprocessors) = multiprocessors;
    at(sizes, Size::rows) = group * sQ;
    at(sizes, Size::surplus) = sKv - sQ;
    at(sizes, Size::wide_saves) = wideSaves(product(batch, heads), sQ, multiprocessors);
    // At most; a call says between how many the mask differs.
    at(sizes, Size::mask_batches) = batch;
    at(sizes, Size::mask_heads) = heads;
    return sizes;
}

// The largest value of a size for which a kernel may be chosen, at most `most`.
int64_t mostOf(Kernel const& kernel, Size size, int64_t most) {
    for (Condition const& condition : kernel.conditions) {
        if (condition.size == size && condition.atMost) most = std::min(most, *condition.atMost);
    }
    return most;
}

}  // namespace

Plan makePlan(Bundle const& bundle, Call const& call, Device const& device, int32_t alternative) {
    checkFits(bundle, call);
    auto const [batch, heads, sQ, width] = call[Tensor::query].shape;
    int64_t const kvHeads = call.kvHeads();
    int64_t const sKv = call.keys();
    Plan plan;
    plan.empty = batch == 0 || heads == 0 || sQ == 0 || kvHeads == 0 || sKv == 0;
    if (plan.empty) return plan;
    int64_t const multiprocessors = std::clamp<int64_t>(device.multiprocessors, 1, kMostMultiprocessors);
    plan.sizes = sizesOf(bundle, batch, heads, kvHeads, sQ, sKv, multiprocessors);
    if (call.rowsFirst) at(plan.sizes, Size::first_surplus) = sKv - sQ;
    setStrides(plan, call);
    if (plan.strides[static_cast<size_t>(Stride::mask_batch)] == 0) at(plan.sizes, Size::mask_batches) = 1;
    if (plan.strides[static_cast<size_t>(Stride::mask_head)] == 0) at(plan.sizes, Size::mask_heads) = 1;
    Chooser const chooser(bundle, call, device, plan);

    std::array<Kernel const*, 3> chosen{};
    auto const chunksOf = [&](Kernel const& kernel) {
        int64_t const programs = product(kernel.grid[1].value(plan.sizes), product(batch, kvHeads));
        return splitsOf(bundle, programs, sKv, multiprocessors * kernel.programs);
    };
    Kernel const* const extend = chooser.find(Role::extend);
    if (at(plan.sizes, Size::rows) <= bundle.selection.decodeRows) {
        chosen = {&chooser.choose(Role::decode)};
        if (chunksOf(*chosen[0]) > 1) {
            chosen = {&chooser.choose(Role::decode_split), &chooser.choose(Role::combine)};
            at(plan.sizes, Size::splits) = chunksOf(*chosen[0]);
        }
    } else if (extend != nullptr && chunksOf(*extend) > 1) {
        at(plan.sizes, Size::splits) = chunksOf(*extend);
        chosen = {extend, &chooser.choose(Role::combine)};
    } else {
        Kernel const& prefill = chooser.choose(Role::prefill, alternative);
        auto const reads = [&prefill](Scratch scratch) {
            return prefill.uses(Argument::Kind::scratch, static_cast<uint8_t>(scratch));
        };
        if (reads(Scratch::blocks)) {
            chosen = {&chooser.choose(Role::blocks), &prefill};
        } else if (reads(Scratch::reach)) {
            chosen = {&chooser.choose(Role::key_norms), &chooser.choose(Role::reach), &prefill};
        } else if (reads(Scratch::key_norms)) {
            chosen = {&chooser.choose(Role::key_norms), &prefill};
        } else {
            chosen = {&prefill};
        }
    }

    for (Buffer const& buffer : bundle.workspace) {
        auto const name = static_cast<uint8_t>(buffer.name);
        bool const used = std::any_of(chosen.begin(), chosen.end(), [&](Kernel const* kernel) {
            return kernel != nullptr && kernel->uses(Argument::Kind::scratch, name);
        });
        if (!used) continue;
        plan.offsets[name] = plan.workspaceBytes;
        plan.workspaceBytes = sum(plan.workspaceBytes, bytesOf(buffer, plan.sizes));
    }
    for (Kernel const* kernel : chosen) {
        if (kernel == nullptr) continue;
        Launch launch{kernel, {}};
        for (size_t axis = 0; axis < 3; ++axis) {
            int64_t const programs = kernel->grid[axis].value(plan.sizes);
            if (programs < 1 || programs > (axis == 0 ? int64_t{0x7FFFFFFF} : int64_t{65535})) {
                refuse(kernel->name + ": " + std::to_string(programs) + " programs are beyond CUDA's limits");
            }
            launch.grid[axis] = static_cast<uint32_t>(programs);
        }
        plan.launches.push_back(launch);
    }
    return plan;
}

int64_t workspaceBound(Bundle const& bundle, int64_t batch, int64_t heads, int64_t kvHeads, int64_t sQ, int64_t sKv) {
    for (int64_t extent : {batch, heads, kvHeads, sQ, sKv}) {
        if (extent < 0 || extent > kMostExtent) refuse("an extent of " + std::to_string(extent) + " is beyond 32 bits");
    }
    int64_t const group = heads / std::max<int64_t>(1, kvHeads);
    auto const bytes = [&](Sizes const& sizes, bool split) {
        int64_t total = 0;
        for (Buffer const& buffer : bundle.workspace) {
            bool const ofDecode = buffer.name == Scratch::partial || buffer.name == Scratch::partial_sums;
            bool const used = ofDecode == split
                && std::any_of(bundle.kernels.begin(), bundle.kernels.end(), [&](Kernel const& kernel) {
                       return kernel.uses(Argument::Kind::scratch, static_cast<uint8_t>(buffer.name));
                   });
            if (used) total = sum(total, bytesOf(buffer, sizes));
        }
        return total;
    };
    Sizes sizes = sizesOf(bundle, batch, heads, kvHeads, sQ, sKv, kMostMultiprocessors);
    int64_t bound = group * sQ > bundle.selection.decodeRows ? bytes(sizes, false) : 0;
    // A split decode needs most at some batch in between: small batches get more chunks.  The need grows with the batch
    // and with the rows, so the largest of each are enough for every number of chunks.
    int64_t mostRows = bundle.selection.decodeRows;
    int64_t mostPrograms = 1;
    for (Kernel const& kernel : bundle.kernels) {
        mostPrograms = std::max(mostPrograms, kernel.programs);
        if (kernel.role == Role::extend) mostRows = std::max(mostRows, mostOf(kernel, Size::rows, group * sQ));
    }
    int64_t const rows = std::min(sQ, mostRows / std::max<int64_t>(1, group));
    int64_t const programsAtMost = kMostMultiprocessors * mostPrograms;
    int64_t const chunks = splitsOf(bundle, 1, sKv, programsAtMost);
    for (int64_t splits = 2; rows > 0 && splits <= chunks; ++splits) {
        int64_t const largest = std::min(batch, programsAtMost / splits / std::max<int64_t>(1, kvHeads));
        if (largest < 1) break;
        sizes = sizesOf(bundle, largest, heads, kvHeads, rows, sKv, kMostMultiprocessors);
        at(sizes, Size::splits) = splits;
        bound = std::max(bound, bytes(sizes, true));
    }
    return bound;
}

int32_t alternatives(Bundle const& bundle) {
    int32_t most = 1;
    for (Kernel const& first : bundle.kernels) {
        if (first.role != Role::prefill) continue;
        auto const same = std::count_if(bundle.kernels.begin(), bundle.kernels.end(), [&](Kernel const& other) {
            return other.role == Role::prefill && other.arch == first.arch && other.maskRows == first.maskRows
                && other.maskDense == first.maskDense;
        });
        most = std::max(most, static_cast<int32_t>(same));
    }
    return most;
}

}  // namespace alibi
