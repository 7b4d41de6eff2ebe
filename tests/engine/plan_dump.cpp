// Prints the plans of the plugin library for calls read from standard input, for comparison with kernels/plan.py.
//
//   plan_dump BUNDLE
//   plan_dump --family     prints the members that the libraries register instead: op_type form causal inputs
// One call per line: arch multiprocessors alternative, then 8 operands of: present type 4 shape 4 strides pointer.
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
    line >> device.service.arch >> device.multiprocessors >> alternative;
    Call call;
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
