// The plugin: TensorRT's questions about a node, answered; and its execution.
//
// Every class below is used through the interfaces of abi.h only.  Nothing throws across them: an error is logged
// and becomes a return code, or a null pointer.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/node.h"
#include "cuda/kernels.h"
#include "tensorrt/abi.h"
#include "tensorrt/fields.h"
#include "tensorrt/logging.h"

namespace alibi {
namespace {

constexpr char const* kVersion = "1";
constexpr char const* kNamespace = "alibi";

// What one execution context keeps between calls.  TensorRT never enqueues one context from two threads at once.
struct Session {
    std::shared_ptr<cuda::Kernels const> kernels;
    Call call;
    Plan plan;
    bool planned = false;
};

class Attention final : public abi::Plugin, public abi::Core, public abi::Build, public abi::Runtime {
public:
    explicit Attention(std::shared_ptr<Node const> node) : node_(std::move(node)) {
        emptyRows_ = node_->emptyMean ? "mean" : "zero";
        auto const& bytes = node_->bundle->storage;
        windows_ = {static_cast<int32_t>(node_->windowLeft), static_cast<int32_t>(node_->windowRight)};
        fieldsToStore_ = {
            {"scale", &node_->scale, abi::kFieldFloat32, 1},
            {"empty_rows", emptyRows_, abi::kFieldChar, 5},
            {"layout", node_->layout.c_str(), abi::kFieldChar, static_cast<int32_t>(node_->layout.size() + 1)},
            {"kernels", bytes.data(), abi::kFieldChar, static_cast<int32_t>(bytes.size())},
        };
        identity_ = node_->member->opType + "/" + std::to_string(node_->scale) + "/" + emptyRows_ + "/"
            + node_->layout + "/" + std::to_string(windows_[0]) + "/" + std::to_string(windows_[1]) + "/" + std::to_string(std::hash<std::string>()(bytes));
        if (node_->member->window) {
            fieldsToStore_.push_back({"window_left", &windows_[0], abi::kFieldInt32, 1});
            fieldsToStore_.push_back({"window_right", &windows_[1], abi::kFieldInt32, 1});
        }
        if (node_->member->lengths) {
            char const* const rows = node_->rowsFirst ? "first" : "last";
            fieldsToStore_.push_back({"rows", rows, abi::kFieldChar, static_cast<int32_t>(std::strlen(rows))});
            identity_ += std::string("/") + rows;
        }
        for (size_t i = 0; i < kViewAttributes.size(); ++i) {
            // Every number of a view fits: `viewsOf` took it.
            views_[i].assign(node_->viewNumbers[i].begin(), node_->viewNumbers[i].end());
            if (views_[i].empty()) continue;
            fieldsToStore_.push_back({kViewAttributes[i], views_[i].data(), abi::kFieldInt32, static_cast<int32_t>(views_[i].size())});
            identity_ += "/";
            for (int32_t number : views_[i]) identity_ += std::to_string(number) + ",";
        }
        collection_ = {static_cast<int32_t>(fieldsToStore_.size()), fieldsToStore_.data()};
    }
    Attention(Attention const&) = delete;  // the fields point into it

    // IPluginV3
    abi::Capability* capability(int32_t type) noexcept override {
        switch (type) {
            case abi::kCore: return static_cast<abi::Core*>(this);
            case abi::kBuild: return static_cast<abi::Build*>(this);
            case abi::kRuntime: return static_cast<abi::Runtime*>(this);
            default: return nullptr;
        }
    }
    abi::Plugin* clone() noexcept override {
        return guarded("clone", static_cast<abi::Plugin*>(nullptr), [&]() -> abi::Plugin* {
            auto copy = std::make_unique<Attention>(node_);
            copy->tactic_ = tactic_;
            return copy.release();
        });
    }

    // IPluginV3OneCore
    char const* pluginName() const noexcept override { return node_->member->opType.c_str(); }
    char const* pluginVersion() const noexcept override { return kVersion; }
    char const* pluginNamespace() const noexcept override { return kNamespace; }

    // IPluginV3OneBuild
    int32_t configure(abi::DynamicTensorDesc const* in, int32_t inputs, abi::DynamicTensorDesc const* out,
                      int32_t outputs) noexcept override {
        return guarded("configurePlugin", -1, [&] {
            expectCount(inputs, outputs);
            for (int32_t i = 0; i < inputs; ++i) expectRankOf(node_->member->inputs[static_cast<size_t>(i)], in[i].desc.dims);
            expectRankOf(Tensor::output, out[0].desc.dims);
            expectWidth(Tensor::query, in[0].desc.dims, node_->bundle->headDim);
            expectWidth(Tensor::key, in[1].desc.dims, node_->bundle->headDim);
            expectWidth(Tensor::value, in[2].desc.dims, node_->bundle->valueDim);
            OutputView const& view = node_->views.output;
            auto const last = static_cast<size_t>(view.rank() - 1);
            expectWidth("output", out[0].desc.dims.d[last], view.reshapes() ? view.width : node_->bundle->valueDim);
            return 0;
        });
    }
    int32_t outputTypes(int32_t* types, int32_t outputs, int32_t const* inputTypes,
                        int32_t inputs) const noexcept override {
        return guarded("getOutputDataTypes", -1, [&] {
            expectCount(inputs, outputs);
            types[0] = inputTypes[0];
            return 0;
        });
    }
    int32_t outputShapes(abi::DimsExprs const* in, int32_t inputs, abi::DimsExprs const*, int32_t, abi::DimsExprs* out,
                         int32_t outputs, abi::ExprBuilder* builder) noexcept override {
        return guarded("getOutputShapes", -1, [&] {
            expectCount(inputs, outputs);
            for (int32_t i = 0; i < inputs; ++i) expectRankOf(node_->member->inputs[static_cast<size_t>(i)], in[i]);
            Views const& views = node_->views;
            out[0].rank = views.output.rank();
            for (int32_t place = 0; place < out[0].rank; ++place) {
                int32_t const axis = views.output.perm[static_cast<size_t>(place)];
                bool const merged = views.output.reshapes() && place == 2;
                out[0].d[place] = merged ? constant(builder, views.output.width)
                    : axis == 3          ? extent(views.value, in[2], 3, builder)
                                         : extent(views.query, in[0], static_cast<size_t>(axis), builder);
            }
            return 0;
        });
    }
    bool supportsFormat(int32_t position, abi::DynamicTensorDesc const* inOut, int32_t inputs,
                        int32_t outputs) noexcept override {
        return guarded("supportsFormatCombination", false, [&] {
            expectCount(inputs, outputs);
            if (position < 0 || position > inputs) throw std::runtime_error("there is no such input or output");
            abi::TensorDesc const& desc = inOut[position].desc;
            if (desc.format != abi::kLinear) return false;
            Tensor const tensor = position == inputs ? Tensor::output
                                                         : node_->member->inputs[static_cast<size_t>(position)];
            Type expected = node_->bundle->dtype;
            if (tensor == Tensor::slopes || tensor == Tensor::key_positions || tensor == Tensor::key_bias) {
                expected = Type::float32;
            }
            if (tensor == Tensor::mask) expected = node_->bundle->maskType;
            if (tensor == Tensor::key_lengths) expected = Type::int64;
            return typeOf(desc.type) == expected;
        });
    }
    int32_t outputCount() const noexcept override { return 1; }
    size_t workspaceBytes(abi::DynamicTensorDesc const* in, int32_t inputs, abi::DynamicTensorDesc const*,
                          int32_t outputs) const noexcept override {
        return guarded("getWorkspaceSize", size_t{0}, [&] {
            expectCount(inputs, outputs);
            for (int32_t i = 0; i < 3; ++i) expectRankOf(node_->member->inputs[static_cast<size_t>(i)], in[i].desc.dims);
            auto const extent = [&](int32_t input, size_t axis) {
                OperandView const& view = node_->views[node_->member->inputs[static_cast<size_t>(input)]];
                return std::max({int64_t{1}, view.extent(axis, in[input].max.d), view.extent(axis, in[input].desc.dims.d)});
            };
            return static_cast<size_t>(workspaceBound(*node_->bundle, extent(0, 0), extent(0, 1), extent(1, 1),
                                                      extent(0, 2), extent(1, 2)));
        });
    }
    int32_t tacticCount() noexcept override { return alternatives(*node_->bundle); }
    int32_t validTactics(int32_t* tactics, int32_t count) noexcept override {
        for (int32_t i = 0; i < count; ++i) tactics[i] = i + 1;  // zero is TensorRT's default tactic
        return 0;
    }
    char const* timingCacheId() noexcept override { return identity_.c_str(); }
    char const* metadata() noexcept override { return identity_.c_str(); }

    // IPluginV3OneRuntime
    int32_t setTactic(int32_t tactic) noexcept override {
        tactic_ = tactic;
        if (session_) session_->planned = false;
        return 0;
    }
    int32_t onShapeChange(abi::TensorDesc const* in, int32_t inputs, abi::TensorDesc const* out,
                          int32_t outputs) noexcept override {
        return guarded("onShapeChange", -1, [&] {
            expectCount(inputs, outputs);
            std::vector<Described> given;
            for (int32_t i = 0; i < inputs; ++i) given.push_back(describedAs(in[i]));
            Call call = node_->call(given.data(), given.size(), describedAs(out[0]));
            for (Operand& operand : call.operands) operand.bind(nullptr);  // an offset decides which kernels fit
            prepare();
            session_->call = call;
            replan();
            return 0;
        });
    }
    int32_t enqueue(abi::TensorDesc const*, abi::TensorDesc const*, void const* const* in, void* const* out,
                    void* workspace, void* stream) noexcept override {
        return guarded("enqueue", -1, [&] {
            if (!session_) throw std::runtime_error("onShapeChange was not called before");
            Session& session = *session_;
            bool aligned = reinterpret_cast<uintptr_t>(out[0]) % 16 == 0;
            for (size_t i = 0; i < node_->member->inputs.size(); ++i) {
                session.call[node_->member->inputs[i]].bind(in[i]);
                aligned = aligned && reinterpret_cast<uintptr_t>(in[i]) % 16 == 0;
            }
            session.call[Tensor::output].bind(out[0]);
            // Kernels are chosen for aligned buffers, which TensorRT promises; others get a choice of their own.
            if (!session.planned || !aligned) replan();
            session.planned = aligned;
            cuda::enqueue(*session.kernels, session.plan, session.call, workspace, stream);
            return 0;
        });
    }
    abi::Plugin* attachToContext(void*) noexcept override { return clone(); }
    abi::Fields const* fieldsToSerialize() noexcept override { return &collection_; }

private:
    template <typename Result, typename Body>
    static Result guarded(char const* where, Result failed, Body&& body) noexcept {
        try {
            return body();
        } catch (std::exception const& error) {
            logError(where, error.what());
        } catch (...) {
            logError(where, "unknown error");
        }
        return failed;
    }

    void expectCount(int32_t inputs, int32_t outputs) const {
        size_t const wanted = node_->member->inputs.size();
        if (inputs < 0 || static_cast<size_t>(inputs) != wanted || outputs != 1) {
            throw std::runtime_error(node_->member->opType + " takes " + std::to_string(wanted)
                                     + " inputs and has one output");
        }
    }
    template <typename Dims>  // known ones or symbolic ones
    void expectRankOf(Tensor tensor, Dims const& dims) const {
        expectRank(tensor, dims.rank, node_->rankOf(tensor));
    }
    void expectWidth(Tensor tensor, abi::Dims const& dims, int64_t width) const {
        expectWidth(nameOf(tensor), node_->views[tensor].extent(3, dims.d), width);
    }
    static void expectWidth(char const* name, int64_t found, int64_t width) {
        if (found >= 0 && found != width) {
            throw std::runtime_error(std::string(name) + " is " + std::to_string(found)
                                     + " wide, but the attached kernels were compiled for " + std::to_string(width));
        }
    }

    static abi::Exprs& maths(abi::ExprBuilder* builder) {
        if (builder == nullptr || builder->exprs == nullptr) throw std::runtime_error("no extents can be computed");
        return *builder->exprs;
    }
    static void const* constant(abi::ExprBuilder* builder, int64_t value) { return maths(builder).constant(value); }

    // The extent of an axis of [B, H, S, D] in a tensor.
    static void const* extent(OperandView const& view, abi::DimsExprs const& tensor, size_t axis,
                              abi::ExprBuilder* builder) {
        auto const place = static_cast<size_t>(view.perm[axis]);
        if (place < 2) return tensor.d[place];
        size_t const side = place - 2;
        if (view.reshapes()) return constant(builder, view.taken(side, view.cut[side]));
        void const* found = tensor.d[place];
        if (view.ends[side] < kWhole) found = maths(builder).operation(abi::kMin, found, constant(builder, view.ends[side]));
        if (view.starts[side] == 0) return found;
        found = maths(builder).operation(abi::kSub, found, constant(builder, view.starts[side]));
        return maths(builder).operation(abi::kMax, found, constant(builder, 0));
    }

    void prepare() {
        if (session_ && session_->kernels->device.context == currentDevice().context) return;
        auto session = std::make_unique<Session>();
        session->kernels = cuda::load(*node_);
        session_ = std::move(session);
    }
    void replan() {
        session_->plan = cuda::plan(*node_, *session_->kernels, session_->call, std::max(0, tactic_ - 1));
        session_->planned = true;
    }

    std::shared_ptr<Node const> node_;
    char const* emptyRows_ = nullptr;
    std::array<int32_t, 2> windows_{};
    std::array<std::vector<int32_t>, kViewAttributes.size()> views_;
    std::vector<abi::Field> fieldsToStore_;
    abi::Fields collection_{};
    std::string identity_;
    int32_t tactic_ = 0;
    std::unique_ptr<Session> session_;
};

class Maker final : public abi::Creator {
public:
    explicit Maker(Member const& member) : member_(member) {}

    abi::Plugin* create(char const* layer, abi::Fields const* fields, int32_t) noexcept override {
        try {
            auto const given = attributesOf(member_, fields == nullptr ? abi::Fields{0, nullptr} : *fields);
            auto const node = Node::of(member_, given);
            requireKernels(*node);
            return new Attention(node);
        } catch (std::exception const& error) {
            logError(layer == nullptr ? "createPlugin" : layer, error.what());
        } catch (...) {
            logError("createPlugin", "unknown error");
        }
        return nullptr;
    }
    abi::Fields const* fieldNames() noexcept override { return &named(member_); }
    char const* pluginName() const noexcept override { return member_.opType.c_str(); }
    char const* pluginVersion() const noexcept override { return kVersion; }
    char const* pluginNamespace() const noexcept override { return kNamespace; }

private:
    // What the parser looks for in a node.  Made once, never destroyed.
    static abi::Fields const& named(Member const& member) {
        constexpr size_t kKinds = 4;  // with and without a window, and lengths
        static auto const* const made = [] {
            auto* const kinds = new std::array<std::vector<abi::Field>, kKinds>();
            for (size_t kind = 0; kind < kKinds; ++kind) {
                std::vector<abi::Field>& fields = (*kinds)[kind];
                fields = {
                    {"scale", nullptr, abi::kFieldFloat32, 1},
                    {"empty_rows", nullptr, abi::kFieldChar, 1},
                    {"layout", nullptr, abi::kFieldChar, 1},
                    {"kernels", nullptr, abi::kFieldChar, 1},
                };
                for (char const* view : kViewAttributes) fields.push_back({view, nullptr, abi::kFieldInt32, 4});
                if (kind % 2 == 1) {
                    fields.push_back({"window_left", nullptr, abi::kFieldInt32, 1});
                    fields.push_back({"window_right", nullptr, abi::kFieldInt32, 1});
                }
                if (kind / 2 == 1) fields.push_back({"rows", nullptr, abi::kFieldChar, 1});
            }
            return kinds;
        }();
        static auto const* const collections = [] {
            auto* const all = new std::array<abi::Fields, kKinds>();
            for (size_t kind = 0; kind < kKinds; ++kind) {
                (*all)[kind] = {static_cast<int32_t>((*made)[kind].size()), (*made)[kind].data()};
            }
            return all;
        }();
        return (*collections)[(member.window ? 1 : 0) + (member.lengths ? 2 : 0)];
    }

    Member const& member_;
};

// Made once, never destroyed: the registry of TensorRT may ask at any time, even while the process ends.
std::vector<abi::Versioned*> const& creators() {
    static auto const* const made = [] {
        auto* const list = new std::vector<abi::Versioned*>();
        for (Member const& member : family()) {
            list->push_back(new Maker(member));
        }
        return list;
    }();
    return *made;
}

}  // namespace
}  // namespace alibi

#define ALIBI_EXPORT extern "C" __attribute__((visibility("default")))

// How TensorRT finds the creators of a library.
ALIBI_EXPORT alibi::abi::Versioned* const* getCreators(int32_t& count) {
    auto const& list = alibi::creators();
    count = static_cast<int32_t>(list.size());
    return list.data();
}
