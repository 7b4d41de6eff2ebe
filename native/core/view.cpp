#include "core/view.h"

#include <algorithm>
#include <stdexcept>

namespace alibi {
namespace {

constexpr size_t kParts = 4;  // of an operand: shape, starts, ends, perm

[[noreturn]] void refuse(std::string const& what) { throw std::runtime_error(what); }

std::string text(std::vector<int64_t> const& numbers) {
    constexpr size_t kShown = 8;
    std::string out = "[";
    for (size_t i = 0; i < std::min(kShown, numbers.size()); ++i) out += (i ? ", " : "") + std::to_string(numbers[i]);
    return out + (numbers.size() > kShown ? ", ...]" : "]");
}

// Which attribute it is, with its numbers, for refusals.
class Attribute {
public:
    Attribute(ViewNumbers const& all, size_t place) : name_(kViewAttributes[place]), numbers_(all[place]) {
        if (numbers_.empty()) refuse("attribute '" + name_ + "' is missing");
    }

    size_t size() const { return numbers_.size(); }
    int64_t operator[](size_t i) const { return numbers_[i]; }
    [[noreturn]] void refuseAs(std::string const& what) const { refuse(name_ + " is " + text(numbers_) + ", " + what); }

    std::array<int32_t, 4> order() const {
        std::vector<int64_t> sorted = numbers_;
        std::sort(sorted.begin(), sorted.end());
        if (sorted != std::vector<int64_t>{0, 1, 2, 3} || numbers_[3] != 3) {
            refuseAs("which is not an order of B, H, S and, last, D");
        }
        std::array<int32_t, 4> found{};
        std::transform(numbers_.begin(), numbers_.end(), found.begin(), [](int64_t n) { return static_cast<int32_t>(n); });
        return found;
    }

    // Whether it keeps the extents of a tensor of rank 4.
    bool keeps() const { return numbers_ == std::vector<int64_t>(4, 0); }
    // Whether it keeps the first two extents, with numbers from 1 to kWhole behind them.
    bool cutsTo(size_t rank) const {
        return size() == rank && numbers_[0] == 0 && numbers_[1] == 0
            && std::all_of(numbers_.begin() + 2, numbers_.end(), [](int64_t n) { return n > 0 && n <= kWhole; });
    }

private:
    std::string name_;
    std::vector<int64_t> const& numbers_;
};

OutputView outputOf(ViewNumbers const& numbers, size_t first) {
    Attribute const perm(numbers, first), shape(numbers, first + 1);
    OutputView view;
    view.perm = perm.order();
    if (shape.keeps()) return view;
    if (!shape.cutsTo(3)) shape.refuseAs("which is neither [0, 0, 0, 0] nor [0, 0, width]");
    if (view.perm[2] != 1) perm.refuseAs("but heads are merged with features where they stand before them");
    view.width = shape[2];
    return view;
}

}  // namespace

OperandView operandOf(ViewNumbers const& numbers, size_t first) {
    Attribute const shape(numbers, first), starts(numbers, first + 1), ends(numbers, first + 2);
    Attribute const perm(numbers, first + 3);
    OperandView view;
    if (shape.cutsTo(4)) {
        view.cut = {shape[2], shape[3]};
    } else if (!shape.keeps()) {
        shape.refuseAs("which is neither [0, 0, 0, 0] nor [0, 0, heads, width]");
    }
    for (Attribute const* side : {&starts, &ends}) {
        if (side->size() != 2) side->refuseAs("but an operand is sliced along two axes");
    }
    for (size_t i = 0; i < 2; ++i) {
        view.starts[i] = starts[i];
        view.ends[i] = ends[i];
        if (starts[i] < 0 || (view.reshapes() && starts[i] >= view.cut[i])) starts.refuseAs("outside of its tensor");
        if (ends[i] <= starts[i] || ends[i] > kWhole) ends.refuseAs("which takes nothing of its tensor");
    }
    view.perm = perm.order();
    return view;
}

int64_t OperandView::taken(size_t side, int64_t extent) const {
    return std::max<int64_t>(0, std::min(ends[side], extent) - starts[side]);
}

int64_t OperandView::extent(size_t axis, int64_t const* tensor) const {
    auto const place = static_cast<size_t>(perm[axis]);
    int64_t const whole = place >= 2 && reshapes() ? cut[place - 2] : tensor[place];
    if (whole < 0) return -1;
    return place >= 2 ? taken(place - 2, whole) : whole;
}

Views viewsOf(ViewNumbers const& numbers) {
    return {operandOf(numbers, 0), operandOf(numbers, kParts), operandOf(numbers, 2 * kParts),
            outputOf(numbers, 3 * kParts)};
}

Views viewsOf(std::string const& order) {
    static std::string const kAxes = "BHSD";
    if (!std::is_permutation(order.begin(), order.end(), kAxes.begin(), kAxes.end()) || order.back() != 'D') {
        refuse("layout '" + order.substr(0, 40) + "' is neither 'views' nor an order of B, H, S and, last, D");
    }
    Views views;
    for (size_t i = 0; i < 4; ++i) {
        views.query.perm[i] = static_cast<int32_t>(order.find(kAxes[i]));
        views.output.perm[i] = static_cast<int32_t>(kAxes.find(order[i]));
    }
    views.key.perm = views.value.perm = views.query.perm;
    return views;
}

}  // namespace alibi
