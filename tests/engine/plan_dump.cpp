// Prints the plans of the plugin library for calls read from standard input, for comparison with kernels/plan.py.
//
//   plan_dump BUNDLE
//   plan_dump --views      prints what views make of tensors: see `viewed`
//   plan_dump --family     prints the members that the libraries register instead: op_type form causal inputs
// One call per line: arch multiprocessors alternative rowsFirst, then 9 operands of: present type 4 shape 4 strides pointer.
// One answer per line: the kernels with their grids, splits, workspace and offsets; or "error" and the reason.
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "core/node.h"
#include "core/plan.h"

using namespace alibi;

namespace {

std::string answer(Bundle const& bundle, std::istringstream& line) {
    Device device;
    int32_t alternative = 0;
    Call call;
    line >> device.service.arch >> device.multiprocessors >> alternative >> call.rowsFirst;
    for (Operand& operand : call.operands) {
        int type = 0;
        uint64_t pointer = 0;
        line >> operand.present >> type;
        operand.type = static_cast<Type>(type);
        for (int64_t& extent : operand.shape) line >> extent;
        for (int64_t& stride : operand.strides) line >> stride;
        line >> pointer;
        operand.pointer = reinterpret_cast<void const*>(pointer);
    }
    std::ostringstream out;
    try {
        Plan const plan = makePlan(bundle, call, device, alternative);
        if (plan.empty) return "empty";
        for (Launch const& launch : plan.launches) {
            out << launch.kernel->name << ' ' << launch.grid[0] << 'x' << launch.grid[1] << 'x' << launch.grid[2] << ' ';
        }
        out << at(plan.sizes, Size::splits) << ' ' << plan.workspaceBytes;
        auto const bound = workspaceBound(bundle, at(plan.sizes, Size::batch), at(plan.sizes, Size::heads),
                                          at(plan.sizes, Size::kv_heads), at(plan.sizes, Size::s_q),
                                          at(plan.sizes, Size::s_kv));
        out << (plan.workspaceBytes <= bound ? " bounded" : " UNBOUNDED");
    } catch (std::exception const& error) {
        return std::string("error ") + error.what();
    }
    return out.str();
}

std::string text(Operand const& operand) {
    std::string out = std::to_string(operand.offset);
    for (int64_t extent : operand.shape) out += " " + std::to_string(extent);
    for (int64_t stride : operand.strides) out += " " + std::to_string(stride);
    return out;
}

// A line: 14 attributes and the extents of query, key and value, each as a count and so many numbers.  The answer: offset,
// shape and strides of query, key, value and output, and the extents of the output; or "error" and the reason.
std::string viewed(std::istringstream& line) {
    auto const numbers = [&line] {
        size_t count = 0;
        line >> count;
        std::vector<int64_t> read(count);
        for (int64_t& number : read) line >> number;
        return read;
    };
    try {
        Attributes attributes;
        attributes.scale = 1.0F;
        attributes.layout = kViews;
        for (std::vector<int64_t>& one : attributes.views) one = numbers();
        auto const node = Node::of(family().front(), attributes);
        std::array<Described, 4> given{};
        for (size_t i = 0; i < 3; ++i) {
            std::vector<int64_t> const extents = numbers();
            given[i].type = Type::bfloat16;
            given[i].rank = static_cast<int32_t>(extents.size());
            std::copy(extents.begin(), extents.end(), given[i].extents.begin());
        }
        given[3].type = Type::float32;
        given[3].rank = 1;
        given[3].extents[0] = describe(Tensor::query, given[0], node->views.query).shape[1];
        Described const output = node->output(given.data(), given.size());
        Call const call = node->call(given.data(), given.size(), output);
        std::string out = text(call[Tensor::query]) + " " + text(call[Tensor::key]) + " " + text(call[Tensor::value]) + " "
            + text(call[Tensor::output]);
        for (int32_t i = 0; i < output.rank; ++i) out += " " + std::to_string(output.extents[static_cast<size_t>(i)]);
        return out;
    } catch (std::exception const& error) {
        return std::string("error ") + error.what();
    }
}

void printViews() {
    std::string text;
    while (std::getline(std::cin, text)) {
        std::istringstream line(text);
        std::cout << viewed(line) << '\n';
    }
}

void printFamily() {
    for (Member const& member : family()) {
        std::cout << member.opType << ' ' << (member.form == Form::symmetric ? "symmetric" : "linear") << ' '
                  << member.causal;
        for (Tensor tensor : member.inputs) std::cout << ' ' << nameOf(tensor);
        std::cout << '\n';
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) return 2;
    if (std::string(argv[1]) == "--family") return printFamily(), 0;
    if (std::string(argv[1]) == "--views") return printViews(), 0;
    std::ifstream stream(argv[1], std::ios::binary);
    std::string const bytes{std::istreambuf_iterator<char>(stream), {}};
    auto const bundle = Bundle::read(bytes);
    std::string text;
    while (std::getline(std::cin, text)) {
        std::istringstream line(text);
        std::cout << answer(*bundle, line) << '\n';
    }
    return 0;
}
