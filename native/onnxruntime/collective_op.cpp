#include "onnxruntime/collective_op.h"

#include <cstring>
#include <memory>

#include "collectives/communicator.h"
#include "cuda/driver.h"
#include "onnxruntime/ask.h"
#include "onnxruntime/op.h"
#include "onnxruntime/scratch.h"

namespace alibi::ort {
namespace {

constexpr char const* kConnect =
    "this process is not connected to the other ranks. Call alibi_rewriter.runtime.collectives.connect() before the "
    "session is made, and start the program with torchrun or mpirun (docs/tensor-parallel.md)";
constexpr int64_t kLargestPitch = INT32_MAX;  // of CUDA's copies of rows

enum class Kind { allReduce, allGather };

struct CollectiveOp : CustomOp {
    Kind kind = Kind::allReduce;
    ElementType type = kUndefined;
};

CollectiveOp const& selfOf(CustomOp const* op) { return *static_cast<CollectiveOp const*>(op); }

char const* nameOf(Kind kind) { return kind == Kind::allReduce ? "AlibiAllReduce" : "AlibiAllGather"; }

nccl::DataType dataType(Type type) {
    switch (type) {
        case Type::float16: return nccl::kFloat16;
        case Type::bfloat16: return nccl::kBFloat16;
        default: return nccl::kFloat32;
    }
}

// A call: `outer` rows of `inner` elements, of which every rank has as many.  A sum has one row.
struct Problem {
    void const* from = nullptr;
    void* to = nullptr;
    Type type = Type::none;
    int64_t outer = 1;
    int64_t inner = 1;

    size_t count() const { return static_cast<size_t>(outer * inner); }
    size_t bytes() const { return count() * static_cast<size_t>(elementBytes(type)); }
};

// What a node says, checked; the same for every provider.
class Collective {
public:
    Collective(CollectiveOp const& op, Api const* api, KernelInfo const* info) : table(api), kind_(op.kind) {
        size_ = number(table, info, "group_size", 0);
        axis_ = number(table, info, "axis", 0);
        if (size_ < 1 || size_ > INT32_MAX) refuse("attribute 'group_size' has to say for how many ranks the model was cut");
    }

    [[noreturn]] void refuse(std::string const& what) const { throw std::runtime_error(std::string(nameOf(kind_)) + ": " + what); }

    Kind kind() const { return kind_; }
    int64_t size() const { return size_; }

    // The input of a call, and its output made.
    Problem bind(KernelContext* context) const {
        Value const* value = nullptr;
        table.call(kGetInput, static_cast<KernelContext const*>(context), size_t{0}, &value);
        Input const input = read(table, value);
        std::array<int64_t, kMostRank> extents = input.described.extents;
        int64_t const rank = input.described.rank;
        if (rank > kMostRank) refuse("a tensor of more than " + std::to_string(kMostRank) + " dimensions");
        Problem found;
        found.from = input.data;
        found.type = input.described.type;
        int64_t split = 0;
        if (kind_ == Kind::allGather) {
            split = axis_ < 0 ? axis_ + rank : axis_;
            if (split < 0 || split >= rank) refuse("there is no axis " + std::to_string(axis_) + " of " + std::to_string(rank));
            extents[static_cast<size_t>(split)] = product(extents[static_cast<size_t>(split)], size_);
        }
        for (int64_t axis = 0; axis < rank; ++axis) {
            int64_t& part = axis < split ? found.outer : found.inner;
            part = product(part, input.described.extents[static_cast<size_t>(axis)]);
        }
        // The whole output in bytes has to be a number, too.
        product(product(product(found.outer, found.inner), size_), elementBytes(found.type));
        Value* made = nullptr;
        table.call(kGetOutput, context, size_t{0}, static_cast<int64_t const*>(extents.data()), static_cast<size_t>(rank), &made);
        table.call(kGetTensorMutableData, made, &found.to);
        return found;
    }

    Table const table;

private:
    Kind kind_;
    int64_t size_ = 0;
    int64_t axis_ = 0;
};

// There is nobody to sum with: what would come out is the part of one rank.
class CpuCollective {
public:
    CpuCollective(CollectiveOp const& op, Api const* api, KernelInfo const* info) : node_(op, api, info) {
        if (node_.size() == 1) return;
        node_.refuse("it runs on GPUs, by NCCL. Make the session with CUDAExecutionProvider; on the CPU only a model for one "
                     "rank runs, and this one is for " + std::to_string(node_.size()));
    }

    Status* compute(KernelContext* context) const noexcept {
        return node_.table.guarded(kInvalidArgument, [&] {
            Problem const problem = node_.bind(context);
            if (problem.bytes() > 0 && problem.to != problem.from) std::memcpy(problem.to, problem.from, problem.bytes());
        });
    }

private:
    Collective node_;
};

class CudaCollective {
public:
    CudaCollective(CollectiveOp const& op, Api const* api, KernelInfo const* info)
        : node_(op, api, info), communicator_(collectives::current()) {
        if (communicator_ == nullptr && node_.size() > 1) node_.refuse(kConnect);
        if (communicator_ != nullptr && communicator_->size != node_.size()) {
            node_.refuse("the model was cut for " + std::to_string(node_.size()) + " ranks, and "
                         + std::to_string(communicator_->size) + " are connected");
        }
        // Sessions are made with the provider's device current.  Should that change, the first call looks.
        if (void* const context = currentContext()) expectDevice(context);
        node_.table.call(kKernelInfoGetAllocator, info, kDefaultMemory, &allocator_);
    }
    CudaCollective(CudaCollective const&) = delete;
    ~CudaCollective() { node_.table.release(kReleaseAllocator, allocator_); }

    Status* compute(KernelContext* context) const noexcept {
        return node_.table.guarded(kFail, [&] {
            void* const found = currentContext();
            if (found != nullptr) expectDevice(found);
            // A thread that has none gets the communicator's.
            CurrentContext const here(communicator_ == nullptr ? found : communicator_->context);
            Problem const problem = node_.bind(context);
            void* stream = nullptr;
            node_.table.call(kGetGpuComputeStream, static_cast<KernelContext const*>(context), &stream);
            // All ranks have the same extents, so that none waits for one that has nothing to send.
            if (problem.count() == 0) return;
            if (communicator_ == nullptr) {
                if (problem.to != problem.from) copy(problem.to, problem.from, problem.bytes(), stream);
            } else if (node_.kind() == Kind::allReduce) {
                communicator_->allReduce(problem.from, problem.to, problem.count(), dataType(problem.type), stream);
            } else {
                gather(problem, context, stream);
            }
        });
    }

private:
    void expectDevice(void* context) const {
        if (communicator_ == nullptr || context == communicator_->context) return;
        std::string const device = std::to_string(communicator_->device);
        node_.refuse("this rank is connected on GPU " + device + " and the session runs on another one. Give "
                     "CUDAExecutionProvider the option device_id=" + device);
    }

    // NCCL puts one rank behind the other.  Along an inner axis that is not where the parts belong.
    void gather(Problem const& problem, KernelContext* context, void* stream) const {
        auto const ranks = static_cast<size_t>(node_.size());
        if (problem.outer == 1) {
            communicator_->allGather(problem.from, problem.to, problem.count(), dataType(problem.type), stream);
            return;
        }
        size_t const width = static_cast<size_t>(problem.inner) * static_cast<size_t>(elementBytes(problem.type));
        if (width > static_cast<size_t>(kLargestPitch) / ranks) node_.refuse("rows of more than 2 GiB");
        Scratch const scratch(node_.table, context, allocator_, static_cast<int64_t>(ranks * problem.bytes()));
        communicator_->allGather(problem.from, scratch.data(), problem.count(), dataType(problem.type), stream);
        for (size_t rank = 0; rank < ranks; ++rank) {
            copyRows(static_cast<char*>(problem.to) + rank * width, ranks * width,
                     static_cast<char const*>(scratch.data()) + rank * problem.bytes(), width, width,
                     static_cast<size_t>(problem.outer), stream);
        }
    }

    Collective node_;
    collectives::Communicator* communicator_;
    Allocator* allocator_ = nullptr;
};

void inferOutput(Table const& table, Kind kind, ShapeContext* context) {
    Dimensions found = shapeInput(table, context, 0);
    if (kind == Kind::allGather) {
        auto const only = [&](char const* name, int64_t absent) {
            std::vector<int64_t> const given = shapeAttribute<int64_t>(table, context, name, kInt);
            return given.empty() ? absent : given.front();
        };
        auto const rank = static_cast<int64_t>(found.extents.size());
        int64_t const size = only("group_size", 0);
        int64_t axis = only("axis", 0);
        if (axis < 0) axis += rank;
        // The kernel says what is wrong.  Of an extent that is not known nothing can be said.
        if (axis < 0 || axis >= rank || size < 1 || found.extents[static_cast<size_t>(axis)] < 0) return;
        found.extents[static_cast<size_t>(axis)] = product(found.extents[static_cast<size_t>(axis)], size);
        found.names[static_cast<size_t>(axis)] = nullptr;
    }
    setOutput(table, context, std::move(found));
}

template <typename Kernel>
void runBy(CollectiveOp& op) {
    op.createKernelV2 = [](CustomOp const* given, Api const* api, KernelInfo const* info, void** kernel) {
        return Table(api).guarded(kInvalidArgument, [&] { *kernel = new Kernel(selfOf(given), api, info); });
    };
    op.computeV2 = [](void* kernel, KernelContext* context) { return static_cast<Kernel*>(kernel)->compute(context); };
    op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

// A sum may be written over what it is a sum of.
size_t inPlace(int32_t** inputs, int32_t** outputs) {
    static int32_t first = 0;
    *inputs = *outputs = &first;
    return 1;
}

CustomOp const* makeOp(Kind kind, ElementType type, bool onGpu) {
    auto* const op = new CollectiveOp();
    op->version = kApiVersion;
    op->kind = kind;
    op->type = type;
    op->name = [](CustomOp const* given) { return nameOf(selfOf(given).kind); };
    op->inputCount = [](CustomOp const*) -> size_t { return 1; };
    op->outputCount = op->inputCount;
    op->inputType = [](CustomOp const* given, size_t) -> int32_t { return selfOf(given).type; };
    op->outputType = op->inputType;
    op->inputCharacteristic = [](CustomOp const*, size_t) { return kRequired; };
    op->outputCharacteristic = op->inputCharacteristic;
    op->inputMemory = [](CustomOp const*, size_t) { return kDefaultMemory; };
    op->variadicInputs = op->variadicOutputs = [](CustomOp const*) { return 1; };
    op->variadicInputsSame = op->variadicOutputsSame = op->variadicInputs;
    op->inferShape = [](CustomOp const* given, ShapeContext* context) {
        Table const table = rememberedTable();
        return table.guarded(kFail, [&] { inferOutput(table, selfOf(given).kind, context); });
    };
    op->startVersion = [](CustomOp const*) { return 1; };
    op->endVersion = [](CustomOp const*) { return 0x7FFFFFFF; };
    if (kind == Kind::allReduce) {
        op->mayInplace = inPlace;
        op->releaseMayInplace = [](int32_t*, int32_t*) {};
    }
    if (onGpu) {
        op->provider = [](CustomOp const*) { return "CUDAExecutionProvider"; };
        runBy<CudaCollective>(*op);
    } else {
        op->provider = [](CustomOp const*) { return "CPUExecutionProvider"; };
        runBy<CpuCollective>(*op);
    }
    return op;
}

}  // namespace

std::vector<CustomOp const*> const& collectiveOps() {
    static auto const* const made = [] {
        auto* const ops = new std::vector<CustomOp const*>();
        for (Kind kind : {Kind::allReduce, Kind::allGather}) {
            for (ElementType type : {kFloat, kFloat16, kBFloat16}) {
                ops->push_back(makeOp(kind, type, false));
                // Without a driver no GPU is there, and onnxruntime has no use for what it could not run.
                if (driverPresent()) ops->push_back(makeOp(kind, type, true));
            }
        }
        return ops;
    }();
    return *made;
}

}  // namespace alibi::ort
