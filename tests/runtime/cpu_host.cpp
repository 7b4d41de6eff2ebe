// Computes one node with the CPU kernels, without any runtime: for processors that only an emulator has here.
//
//   cpu_host CALL RESULT
//
// CALL: op_type, scale, `mean` or `zero`, `first`, `last` or `-`, window_left, window_right, the number of inputs; for each its type, its rank
// and its extents, in a line of text each; then the data of all inputs, one after the other.  RESULT: the output's data.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "alone.h"

using namespace alibi;

namespace {

Type typeOf(std::string const& name) {
    for (Type type : {Type::float16, Type::bfloat16, Type::float32, Type::boolean, Type::int64}) {
        if (name == nameOf(type)) return type;
    }
    throw std::runtime_error("no type is called " + name);
}

size_t bytesOf(Described const& tensor) {
    auto bytes = static_cast<size_t>(elementBytes(tensor.type));
    for (int32_t axis = 0; axis < tensor.rank; ++axis) bytes *= static_cast<size_t>(tensor.extents[static_cast<size_t>(axis)]);
    return bytes;
}

void compute(char const* from, char const* to) {
    std::ifstream file(from, std::ios::binary);
    std::string opType;
    std::string emptyRows;
    std::string rows;
    Attributes attributes;
    float scale = 0;
    size_t count = 0;
    file >> opType >> scale >> emptyRows >> rows >> attributes.windowLeft >> attributes.windowRight >> count;
    attributes.scale = scale;
    attributes.emptyRows = emptyRows;
    if (rows != "-") attributes.rows = rows;
    std::vector<Described> inputs(count);
    for (Described& input : inputs) {
        std::string type;
        file >> type >> input.rank;
        input.type = typeOf(type);
        for (int32_t axis = 0; axis < input.rank; ++axis) file >> input.extents[static_cast<size_t>(axis)];
    }
    file.get();  // the line's end
    std::vector<std::vector<char>> data;
    for (Described const& input : inputs) {
        data.emplace_back(bytesOf(input));
        file.read(data.back().data(), static_cast<std::streamsize>(data.back().size()));
    }
    if (!file) throw std::runtime_error("the call ends early");
    Member const* member = nullptr;
    for (Member const& one : family()) {
        if (one.opType == opType) member = &one;
    }
    if (member == nullptr) throw std::runtime_error("no member is called " + opType);
    auto const node = Node::of(*member, attributes);
    Described const output = node->output(inputs.data(), count);
    std::vector<char> result(bytesOf(output));
    Call call = node->call(inputs.data(), count, output);
    for (size_t i = 0; i < count; ++i) call[member->inputs[i]].bind(data[i].data());
    call[Tensor::output].bind(result.data());
    Alone threads;
    cpu::attention(call, *member, cpu::Skipping::none, threads);
    std::ofstream(to, std::ios::binary).write(result.data(), static_cast<std::streamsize>(result.size()));
}

}  // namespace

int main(int count, char** arguments) {
    try {
        if (count != 3) throw std::runtime_error("cpu_host CALL RESULT");
        compute(arguments[1], arguments[2]);
        std::cout << cpu::instructionSet() << "\n";
        return 0;
    } catch (std::exception const& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
