// Throws made-up kernels, attributes, counts, ranks, types and extents at the core and at the plugin, for the sanitizers.
//
//   fuzz BUNDLE SEED ROUNDS
// Nothing is expected of an answer but that there is one: a refusal with a sentence, or a plan within CUDA's limits.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/inflate.h"
#include "core/plan.h"
#include "tensorrt/abi.h"
#include "tensorrt/fields.h"

extern "C" alibi::abi::Versioned* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(alibi::abi::LoggerFinder* finder);

using namespace alibi;

namespace {

constexpr size_t kHeader = 28;  // of a bundle: magic, two lengths, checksum
std::mt19937_64 random_;
size_t planned_ = 0;  // calls of views that were planned

struct Silent final : abi::Logger, abi::LoggerFinder {
    size_t messages = 0;
    void log(int32_t, char const* message) noexcept override { messages += std::strlen(message) > 0 ? 1 : 0; }
    abi::Logger* find() override { return this; }
};

uint64_t below(uint64_t limit) { return random_() % limit; }
bool chance(uint64_t oneIn) { return below(oneIn) == 0; }

int64_t extent() {
    constexpr int64_t kStrange[] = {0, -1, INT64_MIN, INT64_MAX, INT64_MAX / 2, int64_t{1} << 31, int64_t{1} << 32,
                                    int64_t{1} << 48, 65536, 1024};
    return chance(12) ? kStrange[below(std::size(kStrange))] : static_cast<int64_t>(1 + below(9));
}

// A body that was made up, in the format that the reader expects: stored blocks and the right checksum.
std::string packed(std::string const& body) {
    std::string stream;
    for (size_t at = 0; at < body.size() || at == 0; at += 65535) {
        auto const length = static_cast<uint16_t>(std::min<size_t>(65535, body.size() - at));
        auto const inverse = static_cast<uint16_t>(~length);
        stream += static_cast<char>(at + 65535 >= body.size() ? 1 : 0);
        stream.append(reinterpret_cast<char const*>(&length), 2).append(reinterpret_cast<char const*>(&inverse), 2);
        stream.append(body, at, length);
    }
    uint32_t crc = ~0U;
    for (char byte : stream) {
        crc ^= static_cast<uint8_t>(byte);
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0xEDB88320U : 0U);
    }
    crc = ~crc;
    uint64_t const lengths[2] = {stream.size(), body.size()};
    std::string whole("ALIBIK\0\2", 8);
    whole.append(reinterpret_cast<char const*>(lengths), 16).append(reinterpret_cast<char const*>(&crc), 4);
    return whole + stream;
}

// Numbers are eight bytes, lengths four, texts plain: each kind of change hits one of them.
std::string changed(std::string body) {
    for (uint64_t left = below(4); left > 0; --left) {
        size_t const at = below(std::min<size_t>(body.size() - 8, 6000));
        int64_t const number = extent();
        switch (below(4)) {
            case 0: body[at] = static_cast<char>(below(256)); break;
            case 1: std::memcpy(&body[at], &number, 8); break;
            case 2: body[at] = static_cast<char>(body[at] ^ (1 << below(8))); break;
            default: body.erase(at, below(9)); break;
        }
    }
    return body;
}

abi::Dims dims(int32_t rank) {
    abi::Dims made{};
    made.rank = rank;
    for (int64_t& size : made.d) size = extent();
    return made;
}

int32_t typeOfInput(Tensor meant) {
    return meant == Tensor::slopes ? abi::kFloat : meant == Tensor::key_lengths ? abi::kInt64 : abi::kBFloat16;
}

abi::TensorDesc tensor(Tensor meant, int32_t type) {
    abi::TensorDesc desc{};
    desc.dims = dims(chance(6) ? static_cast<int32_t>(below(11)) - 1 : rankOf(meant));
    constexpr int32_t kTypes[] = {abi::kFloat, abi::kHalf, abi::kBool, abi::kBFloat16, abi::kInt32, abi::kInt64, 99, -1};
    desc.type = chance(6) ? kTypes[below(std::size(kTypes))] : type;
    desc.format = chance(20) ? 1 : abi::kLinear;
    return desc;
}

// Attributes of views, mostly of [B, H, S, D] in tensors of rank 3 or 4, with a number changed now and then.
ViewNumbers viewNumbers() {
    ViewNumbers made;
    bool const reshapes = chance(2);
    for (size_t i = 0; i < made.size(); ++i) {
        std::string const name = kViewAttributes[i];
        auto const ends = [&](char const* part) { return name.size() > std::strlen(part) && name.rfind(part) == name.size() - std::strlen(part); };
        if (ends("perm")) made[i] = chance(2) ? std::vector<int64_t>{0, 2, 1, 3} : std::vector<int64_t>{1, 2, 0, 3};
        else if (name == "output_shape") made[i] = reshapes ? std::vector<int64_t>{0, 0, 128} : std::vector<int64_t>(4, 0);
        else if (ends("shape")) made[i] = reshapes ? std::vector<int64_t>{0, 0, 6, 64} : std::vector<int64_t>(4, 0);
        else if (ends("starts")) made[i] = {static_cast<int64_t>(below(4)), 0};
        else made[i] = {static_cast<int64_t>(4 + below(4)), chance(4) ? kWhole : 64};
        if (chance(30)) made[i][below(made[i].size())] = chance(2) ? extent() : static_cast<int32_t>(below(uint64_t{1} << 32));
        if (chance(60)) made[i].resize(below(9), extent());
    }
    return made;
}

// Extents that mostly belong together, so that more than the first check is reached.
void agree(std::vector<abi::TensorDesc>& descs, Member const& member) {
    if (chance(3)) return;
    int64_t const batch = extent(), kvHeads = extent(), heads = kvHeads > 9 || kvHeads < 0 ? extent() : kvHeads * (chance(2) ? 1 : 2), sQ = extent(), sKv = extent();
    int64_t const full[] = {batch, heads, sQ, sKv};
    auto const set = [](abi::TensorDesc& desc, std::initializer_list<int64_t> extents) {
        std::copy(extents.begin(), extents.end(), desc.dims.d);
    };
    set(descs[0], {batch, heads, sQ, 64});
    set(descs[1], {batch, kvHeads, sKv, 64});
    set(descs[2], {batch, kvHeads, sKv, 64});
    set(descs[3], {heads});
    for (size_t i = 4; i < member.inputs.size(); ++i) {
        if (member.inputs[i] == Tensor::key_bias) set(descs[i], {chance(2) ? 1 : batch, chance(2) ? 1 : heads, sKv});
        if (member.inputs[i] == Tensor::key_positions) set(descs[i], {chance(2) ? 1 : batch, sKv});
        if (member.inputs[i] == Tensor::key_lengths) set(descs[i], {chance(2) ? 1 : batch});
        if (member.inputs[i] != Tensor::mask) continue;
        for (size_t axis = 0; axis < 4; ++axis) descs[i].dims.d[axis] = chance(2) ? 1 : full[axis];
    }
    set(descs.back(), {batch, heads, sQ, 64});
}

Member const& memberOf(std::string const& opType) {
    for (Member const& member : family()) {
        if (member.opType == opType) return member;
    }
    return family()[below(family().size())];
}

// The tensors that views are taken of, where the operands were to be [B, H, S, D].
void inViews(std::vector<abi::TensorDesc>& descs, Member const& member, Views const& views) {
    int64_t const batch = extent(), rows = extent();
    for (size_t i = 0; i < descs.size(); ++i) {
        bool const last = i + 1 == descs.size();
        if (!last && (i >= 3 || i >= member.inputs.size())) continue;
        abi::Dims& to = descs[i].dims;
        if (last ? views.output.reshapes() : views[member.inputs[i]].reshapes()) {
            to.rank = chance(9) ? 4 : 3;
            to.d[0] = batch, to.d[1] = rows, to.d[2] = chance(9) ? extent() : last ? 128 : 6 * 64;
        } else if (chance(2)) {
            to.d[0] = batch, to.d[1] = rows, to.d[2] = 6, to.d[3] = 64;
        }
    }
}

// Views, and tensors that they fit, so that plans are reached as well.
Views fitting(std::vector<abi::TensorDesc>& descs, Member const& member) {
    ViewNumbers numbers;
    int64_t const batch = 1 + below(3), kvHeads = 1 + below(3), heads = kvHeads * (1 + below(3)), sQ = 1 + below(90), sKv = 1 + below(2000);
    bool const reshapes = chance(2), merged = chance(2);
    std::vector<int64_t> const perm = {0, 2, 1, 3};
    for (size_t i = 0; i < 3; ++i) {
        int64_t const own = i == 0 ? heads : kvHeads, first = below(3), whole = first + own + below(3);
        numbers[4 * i] = reshapes ? std::vector<int64_t>{0, 0, whole, 128} : std::vector<int64_t>(4, 0);
        numbers[4 * i + 1] = {first, 8 * static_cast<int64_t>(below(9))};
        numbers[4 * i + 2] = {first + own, numbers[4 * i + 1][1] + 64};
        numbers[4 * i + 3] = perm;
        abi::Dims& to = descs[i].dims;
        to = {reshapes ? 3 : 4, {batch, i == 0 ? sQ : sKv, reshapes ? whole * 128 : whole, 128}};
    }
    numbers[12] = perm;
    numbers[13] = merged ? std::vector<int64_t>{0, 0, heads * 64} : std::vector<int64_t>(4, 0);
    descs.back().dims = {merged ? 3 : 4, {batch, sQ, merged ? heads * 64 : heads, 64}};
    descs[3].dims = {1, {heads}};
    int64_t const full[] = {batch, heads, sQ, sKv};
    for (size_t i = 0; i < descs.size(); ++i) {
        Tensor const meant = i < member.inputs.size() ? member.inputs[i] : Tensor::output;
        bool const wide = i < 3 || meant == Tensor::output;
        if (meant == Tensor::key_lengths) descs[i].dims = {1, {batch}};
        descs[i].type = meant == Tensor::key_lengths ? abi::kInt64 : wide ? abi::kBFloat16 : meant == Tensor::mask && member.masking == Masking::boolean ? abi::kBool : abi::kFloat;
        if (meant == Tensor::mask) descs[i].dims = {4, {chance(2) ? 1 : full[0], chance(2) ? 1 : full[1], chance(2) ? 1 : full[2], full[3]}};
        if (meant == Tensor::key_positions) descs[i].dims = {2, {batch, sKv}};
        if (meant == Tensor::key_bias) descs[i].dims = {3, {batch, heads, sKv}};
    }
    return viewsOf(numbers);
}

// Every element of an operand lies in its tensor.
void expectWithin(Node const& node, std::vector<Described> const& given, size_t i) {
    bool const last = i == 3;
    Described const& from = last ? given.back() : given[i];
    Operand const query = describe(Tensor::query, given[0], node.views.query);
    Operand const value = describe(Tensor::value, given[2], node.views.value);
    Operand const operand = last ? describeOutput(from, node.views.output, query.shape[1], value.shape[3])
                                 : describe(node.member->inputs[i], from, node.views[node.member->inputs[i]]);
    int64_t elements = 1, end = operand.offset;
    for (int32_t axis = 0; axis < from.rank; ++axis) elements *= from.extents[static_cast<size_t>(axis)];
    for (size_t axis = 0; axis < 4; ++axis) {
        if (operand.shape[axis] == 0) return;
        end += (operand.shape[axis] - 1) * operand.strides[axis];
    }
    if (operand.offset < 0 || end >= elements) std::abort();
}

void planning(std::string const& bytes) {
    std::shared_ptr<Bundle const> bundle;
    try {
        bundle = Bundle::read(bytes);
    } catch (std::runtime_error const&) {
        return;
    }
    alternatives(*bundle);
    Node node;
    node.member = &memberOf(bundle->opType);
    for (int round = 0; round < 4; ++round) {
        try {
            node.views = chance(2) ? viewsOf(viewNumbers()) : viewsOf(std::string("BHSD"));
        } catch (std::runtime_error const&) {
        }
        std::vector<abi::TensorDesc> descs;
        for (Tensor meant : node.member->inputs) descs.push_back(tensor(meant, typeOfInput(meant)));
        descs.push_back(tensor(Tensor::output, abi::kBFloat16));
        agree(descs, *node.member);
        if (chance(2)) node.views = fitting(descs, *node.member);
        else inViews(descs, *node.member, node.views);
        try {
            std::vector<Described> given;
            for (auto const& desc : descs) given.push_back(describedAs(desc));
            if (chance(2)) given.back() = node.output(given.data(), given.size() - 1);
            Call call = node.call(given.data(), given.size() - 1, given.back());
            for (size_t i = 0; i < 4; ++i) expectWithin(node, given, i);
            for (Operand& operand : call.operands) operand.bind(reinterpret_cast<void const*>(below(2) * 4096));
            Device const device{bundle->serve(chance(2) ? 90 : 80), chance(4) ? extent() : 132};
            Plan const plan = makePlan(*bundle, call, device, static_cast<int32_t>(below(3)));
            if (node.views.query.reshapes() && !plan.launches.empty()) ++planned_;
            for (Launch const& launch : plan.launches) {
                if (launch.grid[0] < 1 || launch.grid[1] < 1 || launch.grid[1] > 65535 || launch.grid[2] > 65535) std::abort();
            }
        } catch (std::runtime_error const&) {
        }
        try {
            if (workspaceBound(*bundle, extent(), extent(), extent(), extent(), extent()) < 0) std::abort();
        } catch (std::runtime_error const&) {
        }
    }
}

struct Exprs final : abi::Exprs {
    void const* constant(int64_t) override { return this; }
    void const* operation(int32_t, void const* first, void const*) override { return first; }
};

void asPlugin(abi::Versioned* const* creators, int32_t count, std::string const& bytes, std::string const& opType) {
    auto* maker = static_cast<abi::Creator*>(creators[below(static_cast<uint64_t>(count))]);
    for (int32_t i = 0; i < count && !chance(8); ++i) {
        auto* const other = static_cast<abi::Creator*>(creators[i]);
        if (opType == other->pluginName()) maker = other;
    }
    Member const& member = memberOf(maker->pluginName());
    float const scale = chance(9) ? -1e38F * 10.0F : 0.125F;
    std::string const layout = chance(5) ? "BS" : chance(3) ? "BSHD" : chance(2) ? kViews : "BHSD";
    std::string const empty = chance(9) ? "" : chance(2) ? "mean" : "zero";
    std::vector<abi::Field> fields = {
        {"scale", &scale, abi::kFieldFloat32, 1},
        {"layout", layout.c_str(), abi::kFieldChar, static_cast<int32_t>(layout.size() + 1)},
        {"empty_rows", empty.c_str(), abi::kFieldChar, static_cast<int32_t>(empty.size() + 1)},
        {"kernels", bytes.data(), abi::kFieldChar, static_cast<int32_t>(bytes.size())},
    };
    std::string const aligned = chance(9) ? "" : chance(2) ? "last" : "first";
    if (member.lengths || chance(9)) {
        fields.push_back({"rows", aligned.c_str(), abi::kFieldChar, static_cast<int32_t>(aligned.size() + 1)});
    }
    std::array<std::vector<int32_t>, kViewAttributes.size()> views;
    ViewNumbers const numbers = viewNumbers();
    for (size_t i = 0; layout == kViews && i < views.size(); ++i) {
        views[i].assign(numbers[i].begin(), numbers[i].end());
        fields.push_back({kViewAttributes[i], views[i].data(), abi::kFieldInt32, static_cast<int32_t>(views[i].size())});
    }
    if (chance(9)) fields[below(4)].type = static_cast<int32_t>(below(9));
    if (chance(9)) fields[below(4)].data = nullptr;
    if (chance(9)) fields[below(4)].name = nullptr;
    if (chance(9)) fields[below(4)].length = -static_cast<int32_t>(below(9));
    if (chance(9)) fields.erase(fields.begin() + static_cast<long>(below(4)));
    abi::Fields const collection{static_cast<int32_t>(fields.size()), fields.data()};
    std::unique_ptr<abi::Plugin> const plugin(maker->create("layer", &collection, abi::kBuilding));
    if (!plugin) return;
    auto* const build = static_cast<abi::Build*>(plugin->capability(abi::kBuild));
    auto* const runtime = static_cast<abi::Runtime*>(plugin->capability(abi::kRuntime));
    for (int round = 0; round < 8; ++round) {
        std::vector<abi::TensorDesc> descs;
        for (Tensor meant : member.inputs) descs.push_back(tensor(meant, typeOfInput(meant)));
        descs.push_back(tensor(Tensor::output, abi::kBFloat16));
        agree(descs, member);
        try {
            if (layout == kViews) inViews(descs, member, viewsOf(numbers));
        } catch (std::runtime_error const&) {
        }
        auto inputs = static_cast<int32_t>(member.inputs.size());
        if (chance(6)) {
            inputs = static_cast<int32_t>(below(9));
            descs.resize(static_cast<size_t>(inputs) + 1, descs.back());
        }
        std::vector<abi::DynamicTensorDesc> dynamic;
        std::vector<abi::DimsExprs> symbols(static_cast<size_t>(inputs));
        std::vector<int32_t> types(static_cast<size_t>(inputs));
        for (auto const& desc : descs) dynamic.push_back({desc, desc.dims, desc.dims, desc.dims});
        for (size_t i = 0; i < symbols.size(); ++i) symbols[i].rank = descs[i].dims.rank;
        Exprs exprs;
        abi::ExprBuilder builder{nullptr, chance(9) ? nullptr : &exprs};
        abi::DimsExprs shape{};
        int32_t type = 0;
        build->outputShapes(symbols.data(), inputs, nullptr, 0, &shape, 1, &builder);
        build->outputTypes(&type, 1, types.data(), inputs);
        build->supportsFormat(static_cast<int32_t>(below(12)) - 1, dynamic.data(), inputs, 1);
        build->configure(dynamic.data(), inputs, dynamic.data() + inputs, 1);
        build->workspaceBytes(dynamic.data(), inputs, dynamic.data() + inputs, 1);
        std::unique_ptr<abi::Plugin> const attached(runtime->attachToContext(nullptr));
        auto* const running = static_cast<abi::Runtime*>(attached->capability(abi::kRuntime));
        running->setTactic(static_cast<int32_t>(below(5)));
        running->onShapeChange(descs.data(), inputs, &descs.back(), 1);
        std::vector<void const*> in(static_cast<size_t>(inputs) + 1);
        void* out[1] = {};
        running->enqueue(descs.data(), &descs.back(), in.data(), out, nullptr, nullptr);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    std::ifstream stream(argv[1], std::ios::binary);
    std::string const whole{std::istreambuf_iterator<char>(stream), {}};
    uint64_t length = 0;
    std::memcpy(&length, whole.data() + 16, sizeof length);
    std::string const body = inflate(std::string_view(whole).substr(kHeader), length);
    random_.seed(static_cast<uint64_t>(std::atoll(argv[2])));
    Silent silent;
    setLoggerFinder(&silent);
    int32_t count = 0;
    auto const creators = getCreators(count);
    std::string const opType = Bundle::read(whole)->opType;
    for (long round = std::atol(argv[3]); round > 0; --round) {
        std::string const bytes = chance(4) ? whole : packed(changed(body));
        planning(bytes);
        asPlugin(creators, count, bytes, opType);
    }
    std::printf("%zu messages, %zu plans of views\n", silent.messages, planned_);
    return 0;
}
