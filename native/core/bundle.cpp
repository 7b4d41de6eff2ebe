#include "core/bundle.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>

#include "core/call.h"
#include "core/inflate.h"

namespace alibi {
namespace {

constexpr char kMagic[8] = {'A', 'L', 'I', 'B', 'I', 'K', '\0', '\2'};  // the last byte is the format version
constexpr size_t kHeader = sizeof kMagic + 2 * sizeof(uint64_t) + sizeof(uint32_t);
constexpr uint64_t kMostBytes = uint64_t{1} << 30;  // of a bundle, decompressed
constexpr uint32_t kMostItems = 4096;  // of any list

constexpr char const* kSizes[] = {"batch", "heads", "kv_heads", "group", "s_q", "s_kv", "head_dim", "value_dim",
                                  "splits", "multiprocessors", "rows", "surplus", "mask_batches", "mask_heads",
                                  "first_surplus", "wide_saves"};
constexpr char const* kTensors[] = {"query", "key", "value", "output", "slopes", "mask", "key_positions",
                                    "key_bias", "key_lengths"};
constexpr char const* kScratch[] = {"key_norms", "reach", "partial", "partial_sums", "ticket", "previous",
                                    "blocks", "key_terms"};
constexpr char const* kStrides[] = {"query_batch", "query_head", "query_row", "key_batch", "key_head", "key_row",
                                    "value_batch", "value_head", "value_row", "output_batch", "output_head",
                                    "output_row", "mask_batch", "mask_head", "mask_row", "mask_column",
                                    "positions_batch", "bias_batch", "bias_head", "lengths_batch"};
constexpr char const* kRoles[] = {"prefill", "decode", "decode_split", "combine", "key_norms", "reach", "blocks",
                                  "extend"};
constexpr char const* kTypes[] = {"", "float16", "bfloat16", "float32", "bool"};  // no kernel is compiled for int64

static_assert(std::size(kSizes) == static_cast<size_t>(Size::count));
static_assert(std::size(kTensors) == static_cast<size_t>(Tensor::count));
static_assert(std::size(kScratch) == static_cast<size_t>(Scratch::count));
static_assert(std::size(kStrides) == static_cast<size_t>(Stride::count));
static_assert(std::size(kRoles) == static_cast<size_t>(Role::count));
static_assert(std::size(kTypes) == static_cast<size_t>(Type::int64));

[[noreturn]] void malformed(std::string const& what) { throw std::runtime_error("attached kernels: " + what); }

template <size_t N>
std::optional<uint8_t> find(char const* const (&words)[N], std::string_view word) {
    for (size_t i = 0; i < N; ++i) {
        if (word == words[i]) return static_cast<uint8_t>(i);
    }
    return std::nullopt;
}

uint32_t crc32(std::string_view bytes) {  // the polynomial of zlib
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t word = i;
        for (int bit = 0; bit < 8; ++bit) word = (word >> 1) ^ ((word & 1) ? 0xEDB88320U : 0U);
        table[i] = word;
    }
    uint32_t crc = ~0U;
    for (char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ (crc >> 8);
    return ~crc;
}

// Reads little-endian values and never past the end.
class Reader {
public:
    explicit Reader(std::string_view bytes) : rest_(bytes) {}

    template <typename Number>
    Number number() {
        Number value;
        std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }

    std::string_view take(uint64_t length) {
        if (length > rest_.size()) malformed("they end too early");
        std::string_view found = rest_.substr(0, length);
        rest_.remove_prefix(length);
        return found;
    }

    std::string_view text() { return take(number<uint32_t>()); }

    uint32_t items() {
        auto const count = number<uint32_t>();
        if (count > kMostItems) malformed("a list of " + std::to_string(count) + " items");
        return count;
    }

    bool flag() {
        auto const value = number<uint8_t>();
        if (value > 1) malformed("a flag that is neither 0 nor 1");
        return value == 1;
    }

    int64_t inRange(int64_t low, int64_t high, char const* what) {
        auto const value = number<int64_t>();
        if (value < low || value > high) malformed(std::string(what) + " is " + std::to_string(value));
        return value;
    }

    template <typename Enum, size_t N>
    Enum word(char const* const (&words)[N], char const* what) {
        std::string_view const name = text();
        auto const found = find(words, name);
        if (!found) malformed("unknown " + std::string(what) + " '" + std::string(name.substr(0, 40)) + "'");
        return static_cast<Enum>(*found);
    }

    bool done() const { return rest_.empty(); }

private:
    std::string_view rest_;
};

// A size that an extent may be made of: all that count something.
Size readCount(Reader& in) {
    Size const size = in.word<Size>(kSizes, "size");
    if (size == Size::surplus || size == Size::first_surplus) malformed("'surplus' may be negative and is no extent");
    if (size == Size::wide_saves) malformed("'wide_saves' counts nothing and is no extent");
    return size;
}

Extent readExtent(Reader& in) {
    Extent extent;
    extent.factors.resize(in.items());
    for (Factor& factor : extent.factors) {
        factor.sizes.resize(in.items());
        for (Size& size : factor.sizes) size = readCount(in);
        factor.divisor = in.inRange(1, std::numeric_limits<int32_t>::max(), "a divisor");
    }
    if (in.flag()) extent.atMost = readCount(in);
    return extent;
}

Condition readCondition(Reader& in) {
    Condition condition;
    condition.size = in.word<Size>(kSizes, "size");
    if (in.flag()) condition.atLeast = in.number<int64_t>();
    if (in.flag()) condition.atMost = in.number<int64_t>();
    return condition;
}

Argument readArgument(Reader& in) {
    using Kind = Argument::Kind;
    std::string_view const kind = in.text();
    std::string_view const name = in.text();
    Argument argument;
    argument.multipleOf = in.inRange(1, 1 << 20, "an alignment");
    auto const take = [&](Kind chosen, std::optional<uint8_t> found) {
        if (found) {
            argument.kind = chosen;
            argument.name = *found;
        }
        return found.has_value();
    };
    bool known = false;
    if (kind == "pointer") {
        known = take(Kind::tensor, find(kTensors, name)) || take(Kind::scratch, find(kScratch, name));
    } else if (kind == "tensor_map") {
        known = take(Kind::tensorMap, find(kTensors, name)) && argument.name <= static_cast<uint8_t>(Tensor::output);
        for (uint32_t& extent : argument.map.box) extent = static_cast<uint32_t>(in.inRange(1, 256, "a box"));
        argument.map.swizzleBytes = static_cast<uint32_t>(in.inRange(0, 128, "a swizzle"));
        auto const bytes = argument.map.swizzleBytes;
        if (bytes != 0 && bytes != 32 && bytes != 64 && bytes != 128) malformed("a swizzle that does not exist");
    } else if (kind == "int32") {
        known = take(Kind::sizeInt32, find(kSizes, name)) || take(Kind::strideInt32, find(kStrides, name))
            || (name == "empty_mean" && take(Kind::emptyMean, 0)) || (name == "window_left" && take(Kind::windowLeft, 0))
            || (name == "window_right" && take(Kind::windowRight, 0)) || (name == "rows_first" && take(Kind::rowsFirst, 0));
    } else if (kind == "int64") {
        known = take(Kind::strideInt64, find(kStrides, name));
    } else if (kind == "float32") {
        known = name == "scale" && take(Kind::scale, 0);
    } else if (kind == "zero32") {
        known = name.empty() && take(Kind::zero32, 0);
    } else if (kind == "zero64") {
        known = name.empty() && take(Kind::zero64, 0);
    }
    if (!known) {
        malformed("no " + std::string(kind.substr(0, 40)) + " argument is called '" + std::string(name.substr(0, 40))
                  + "'");
    }
    return argument;
}

std::optional<uint32_t> readBlobIndex(Reader& in) {
    if (!in.flag()) return std::nullopt;
    return in.number<uint32_t>();
}

Kernel readKernel(Reader& in) {
    Kernel kernel;
    kernel.name = in.text();
    kernel.role = in.word<Role>(kRoles, "role");
    kernel.arch = static_cast<int32_t>(in.inRange(50, 999, "an architecture"));
    kernel.exactArch = in.flag();
    kernel.contiguous = in.flag();
    kernel.maskRows = in.flag();
    kernel.maskDense = in.flag();
    kernel.conditions.resize(in.items());
    for (Condition& condition : kernel.conditions) condition = readCondition(in);
    kernel.entry = in.text();
    if (kernel.entry.empty() || kernel.entry.find('\0') != std::string::npos) malformed("a kernel without a name");
    kernel.threads = static_cast<uint32_t>(in.inRange(32, 1024, "a number of threads"));
    kernel.sharedBytes = static_cast<uint32_t>(in.inRange(0, 227 * 1024, "a size of shared memory"));
    kernel.programs = in.inRange(1, 32, "a number of programs");
    for (Extent& extent : kernel.grid) extent = readExtent(in);
    kernel.arguments.resize(in.items());
    for (Argument& argument : kernel.arguments) argument = readArgument(in);
    kernel.cubin = readBlobIndex(in);
    kernel.ptx = readBlobIndex(in);
    return kernel;
}

Blob readBlob(Reader& in) {
    Blob blob;
    std::memcpy(blob.sha256.data(), in.take(blob.sha256.size()).data(), blob.sha256.size());
    blob.bytes = in.take(in.number<uint64_t>());
    if (blob.bytes.empty()) malformed("an empty image");
    return blob;
}

void check(Bundle const& bundle) {
    if (bundle.kernels.empty()) malformed("there are none");
    auto const images = static_cast<uint32_t>(bundle.blobs.size());
    for (Kernel const& kernel : bundle.kernels) {
        if (!kernel.cubin && !kernel.ptx) malformed("'" + kernel.name + "' has no image");
        if ((kernel.cubin && *kernel.cubin >= images) || (kernel.ptx && *kernel.ptx >= images)) {
            malformed("'" + kernel.name + "' names an image that is not there");
        }
        if (kernel.ptx && bundle.blobs[*kernel.ptx].bytes.back() != '\0') malformed("PTX without an end");
        for (Argument const& argument : kernel.arguments) {
            if (argument.kind != Argument::Kind::scratch) continue;
            bool const there = std::any_of(bundle.workspace.begin(), bundle.workspace.end(), [&](Buffer const& buffer) {
                return static_cast<uint8_t>(buffer.name) == argument.name;
            });
            if (!there) malformed("'" + kernel.name + "' uses workspace that is not described");
        }
    }
}

std::shared_ptr<Bundle const> parse(std::string_view whole, uint64_t rawLength) {
    auto bundle = std::make_shared<Bundle>();
    bundle->storage = whole;
    try {
        bundle->body = inflate(whole.substr(kHeader), rawLength);
    } catch (std::exception const& error) {
        malformed(error.what());
    }
    Reader in(bundle->body);
    bundle->opType = in.text();
    bundle->dtype = in.word<Type>(kTypes, "type");
    bundle->headDim = in.inRange(1, 4096, "D");
    bundle->valueDim = in.inRange(1, 4096, "D_v");
    bundle->maskType = in.word<Type>(kTypes, "mask type");
    bundle->selection.decodeRows = in.inRange(0, 1 << 16, "decode_rows");
    bundle->selection.minKeys = in.inRange(1, 1 << 24, "min_keys");
    bundle->selection.maxSplits = in.inRange(1, 1 << 12, "max_splits");
    bundle->workspace.resize(in.items());
    for (Buffer& buffer : bundle->workspace) {
        buffer.name = in.word<Scratch>(kScratch, "workspace");
        buffer.elementBytes = in.inRange(1, 16, "an element size");
        buffer.extent = readExtent(in);
    }
    bundle->kernels.resize(in.items());
    for (Kernel& kernel : bundle->kernels) kernel = readKernel(in);
    bundle->blobs.resize(in.items());
    for (Blob& blob : bundle->blobs) blob = readBlob(in);
    if (!in.done()) malformed("there is more than was described");
    check(*bundle);
    return bundle;
}

// Every node of a model carries its kernels; nodes with the same ones share what is read from them.
class BundleCache {
public:
    static BundleCache& instance() {
        static auto* const cache = new BundleCache();  // never destroyed: plugins may outlive static objects
        return *cache;
    }

    template <typename Make>
    std::shared_ptr<Bundle const> get(std::string_view whole, Make const& make) {
        std::lock_guard<std::mutex> const lock(mutex_);
        auto& slot = bundles_[std::hash<std::string_view>()(whole)];
        auto found = slot.lock();
        if (!found || found->storage != whole) {
            found = make();
            slot = found;
        }
        return found;
    }

private:
    std::mutex mutex_;
    std::map<size_t, std::weak_ptr<Bundle const>> bundles_;
};

}  // namespace

int64_t elementBytes(Type type) {
    switch (type) {
        case Type::float16:
        case Type::bfloat16: return 2;
        case Type::float32: return 4;
        case Type::int64: return 8;
        default: return 1;
    }
}

int64_t Extent::value(Sizes const& sizes) const {
    int64_t whole = 1;
    for (Factor const& factor : factors) {
        int64_t inner = 1;
        for (Size size : factor.sizes) inner = product(inner, at(sizes, size));
        whole = product(whole, sum(inner, factor.divisor - 1) / factor.divisor);
    }
    return atMost ? std::min(whole, at(sizes, *atMost)) : whole;
}

bool Condition::holds(Sizes const& sizes) const {
    int64_t const value = at(sizes, size);
    return (!atLeast || value >= *atLeast) && (!atMost || value <= *atMost);
}

bool Kernel::uses(Argument::Kind kind, uint8_t name_) const {
    return std::any_of(arguments.begin(), arguments.end(),
                       [&](Argument const& argument) { return argument.kind == kind && argument.name == name_; });
}

std::shared_ptr<Bundle const> Bundle::read(std::string_view bytes) {
    if (bytes.size() < kHeader || std::memcmp(bytes.data(), kMagic, sizeof kMagic - 1) != 0) {
        malformed("this is not a kernel bundle");
    }
    if (bytes[sizeof kMagic - 1] != kMagic[sizeof kMagic - 1]) {
        malformed("format " + std::to_string(bytes[sizeof kMagic - 1]) + "; this plugin library reads "
                  + std::to_string(kMagic[sizeof kMagic - 1]) + ". Use the library and the model of one release");
    }
    Reader head(bytes.substr(sizeof kMagic));
    auto const length = head.number<uint64_t>();
    auto const rawLength = head.number<uint64_t>();
    auto const crc = head.number<uint32_t>();
    // TensorRT's parser hands a string attribute over with a NUL behind it.
    if (length > bytes.size() - kHeader || rawLength > kMostBytes) malformed("they were cut off");
    std::string_view const whole = bytes.substr(0, kHeader + length);
    if (crc32(whole.substr(kHeader)) != crc) malformed("their checksum is wrong: they were damaged");
    return BundleCache::instance().get(whole, [&] { return parse(whole, rawLength); });
}

Service Bundle::serve(int32_t deviceArch) const {
    int32_t code = 0;
    int32_t text = 0;
    for (Kernel const& kernel : kernels) {
        // Machine code runs on later minor versions of its generation, architecture-specific code on its own only.
        bool const runs = kernel.arch == deviceArch
            || (!kernel.exactArch && kernel.arch / 10 == deviceArch / 10 && kernel.arch < deviceArch);
        if (kernel.cubin && runs) code = std::max(code, kernel.arch);
        if (kernel.ptx && (kernel.exactArch ? kernel.arch == deviceArch : kernel.arch <= deviceArch)) {
            text = std::max(text, kernel.arch);
        }
    }
    if (code != 0) return {code, false};
    if (text != 0) return {text, true};
    throw std::runtime_error("no attached kernel runs on compute capability " + std::to_string(deviceArch / 10) + "."
                             + std::to_string(deviceArch % 10) + ". Build, or attach kernels, again with --target sm_"
                             + std::to_string(deviceArch));
}

}  // namespace alibi
