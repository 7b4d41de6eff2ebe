#include "core/append.h"

#include <stdexcept>
#include <string>

namespace alibi {
namespace {

constexpr size_t kKeyAttributes = 4;  // where those of the key begin among kViewAttributes
constexpr size_t kValueAttributes = 8;

[[noreturn]] void refuse(std::string const& what) { throw std::runtime_error(std::string(kAppendOp) + ": " + what); }

std::string extents(std::array<int64_t, 4> const& shape) {
    std::string out = "[";
    for (size_t i = 0; i < 4; ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

// A cache of keys or values with its new ones.
Appended join(Described const& buffer, Operand const& fresh, char const* name, void* past) {
    std::array<int64_t, 4> shape{};
    if (buffer.rank != 4) refuse(std::string("past_") + name + " has " + std::to_string(buffer.rank) + " dimensions instead of 4");
    for (size_t i = 0; i < 4; ++i) shape[i] = buffer.extents[i];
    bool const fits = shape[0] == fresh.shape[0] && shape[1] == fresh.shape[1] && shape[3] == fresh.shape[3];
    if (!fits) {
        refuse(std::string("the new ") + name + "s are " + extents(fresh.shape) + ", which does not fit past_" + name + " "
               + extents(shape));
    }
    if (buffer.type != fresh.type) refuse(std::string("past_") + name + " is of another type than " + name);
    int64_t const bytes = elementBytes(fresh.type);
    Appended made;
    made.past = static_cast<char const*>(past);
    made.fresh = static_cast<char const*>(fresh.pointer);
    made.rowBytes = product(shape[3], bytes);
    for (size_t i = 0; i < 3; ++i) made.strides[i] = fresh.strides[i] * bytes;
    product(product(product(shape[0], shape[1]), shape[2]), made.rowBytes);
    return made;
}

}  // namespace

AppendNode AppendNode::of(std::string const& layout, ViewNumbers const& numbers) {
    try {
        if (layout == "views") return {operandOf(numbers, kKeyAttributes), operandOf(numbers, kValueAttributes)};
        Views const views = viewsOf(layout);
        return {views.key, views.value};
    } catch (std::runtime_error const& error) {
        refuse(error.what());
    }
}

AppendCall AppendNode::call(std::array<Described, 5> const& given, std::array<void*, 5> const& data) const {
    auto const& [pastKey, pastValue, newKey, newValue, lengths] = given;
    Operand key = describe(Tensor::key, newKey, this->key);
    Operand value = describe(Tensor::value, newValue, this->value);
    key.bind(data[2]);
    value.bind(data[3]);
    AppendCall made;
    made.both = {join(pastKey, key, "key", data[0]), join(pastValue, value, "value", data[1])};
    made.batch = key.shape[0];
    made.heads = key.shape[1];
    made.rows = key.shape[2];
    made.capacity = pastKey.extents[2];
    bool const alike = value.shape[0] == made.batch && value.shape[1] == made.heads && value.shape[2] == made.rows
        && pastValue.extents[2] == made.capacity;
    if (!alike) refuse("keys " + extents(key.shape) + " and values " + extents(value.shape) + " are not of the same cache");
    if (lengths.rank != 1 || (lengths.extents[0] != made.batch && lengths.extents[0] != 1)) {
        refuse("key_lengths has not one number per sequence");
    }
    made.lengths = static_cast<int64_t const*>(data[4]);
    made.lengthStride = lengths.extents[0] == 1 ? 0 : 1;
    return made;
}

}  // namespace alibi
