#include "core/node.h"

#include <cmath>
#include <stdexcept>

namespace alibi {
namespace {

constexpr char const* kCure = ". Build with `rewrite MODEL --engine`, or attach kernels with --embed-kernels";

[[noreturn]] void refuse(Member const& member, std::string const& what) {
    throw std::runtime_error(member.opType + ": " + what);
}

void name(Member& member) {
    member.opType = "AlibiAttention";
    member.opType += member.form == Form::symmetric ? "Symmetric" : member.causal ? "Causal" : "Linear";
    if (member.positions) member.opType += "Positions";
    if (member.keyBias) member.opType += "KeyBias";
    if (member.window) member.opType += "Window";
    if (member.lengths) member.opType += "Lengths";
    if (member.masking == Masking::boolean) member.opType += "BooleanMask";
    if (member.masking == Masking::additive) member.opType += "AdditiveMask";
    member.inputs = {Tensor::query, Tensor::key, Tensor::value, Tensor::slopes};
    if (member.masking != Masking::none) member.inputs.push_back(Tensor::mask);
    if (member.positions) member.inputs.push_back(Tensor::key_positions);
    if (member.keyBias) member.inputs.push_back(Tensor::key_bias);
    if (member.lengths) member.inputs.push_back(Tensor::key_lengths);
}

std::vector<Member> derive() {
    struct Shape {
        Form form;
        bool causal;
        bool positions;
    };
    // A causal symmetric bias is the causal linear one, and a symmetric one counts places, so neither has more members.
    constexpr Shape kShapes[] = {{Form::linear, true, false}, {Form::linear, true, true}, {Form::linear, false, false},
                                 {Form::linear, false, true}, {Form::symmetric, false, false}};
    struct Extra {
        bool keyBias;
        bool lengths;
    };
    std::vector<Member> members;
    for (Extra const& extra : {Extra{false, false}, Extra{true, false}, Extra{false, true}}) {
        for (bool window : {false, true}) {
            for (Shape const& shape : kShapes) {
                if (extra.lengths && shape.positions) continue;
                for (Masking masking : {Masking::none, Masking::boolean, Masking::additive}) {
                    Member member{"", shape.form, shape.causal, shape.positions, extra.keyBias, window, extra.lengths, masking, {}};
                    name(member);
                    members.push_back(member);
                }
            }
        }
    }
    return members;
}

int64_t expectWindow(Member const& member, char const* attribute, int64_t size) {
    if (!member.window && size != kUnbounded) refuse(member, std::string("it has no ") + attribute);
    if (size < kUnbounded || size > kLargestWindow) {
        refuse(member, std::string(attribute) + " is " + std::to_string(size) + ", which is neither -1 nor from 0 to "
                           + std::to_string(kLargestWindow));
    }
    return size;
}

bool viewed(Tensor tensor) { return tensor == Tensor::query || tensor == Tensor::key || tensor == Tensor::value; }

}  // namespace

std::vector<Member> const& family() {
    static auto const* const members = new std::vector<Member>(derive());  // never destroyed: registries keep names
    return *members;
}

std::shared_ptr<Node const> Node::of(Member const& member, Attributes const& attributes) {
    auto node = std::make_shared<Node>();
    node->member = &member;
    if (!attributes.scale) refuse(member, "attribute 'scale' is missing");
    node->scale = *attributes.scale;
    if (!std::isfinite(node->scale)) refuse(member, "attribute 'scale' is not finite");
    if (attributes.emptyRows != "mean" && attributes.emptyRows != "zero") {
        refuse(member, "empty_rows is neither 'mean' nor 'zero'");
    }
    node->emptyMean = attributes.emptyRows == "mean";
    node->windowLeft = expectWindow(member, "window_left", attributes.windowLeft);
    node->windowRight = expectWindow(member, "window_right", attributes.windowRight);
    if (member.lengths ? attributes.rows != "last" && attributes.rows != "first" : !attributes.rows.empty()) {
        refuse(member, member.lengths ? "rows is neither 'last' nor 'first'" : "it has no rows");
    }
    node->rowsFirst = attributes.rows == "first";
    node->layout = attributes.layout;
    try {
        if (node->layout == kViews) node->viewNumbers = attributes.views;
        node->views = node->layout == kViews ? viewsOf(attributes.views) : viewsOf(node->layout);
    } catch (std::runtime_error const& error) {
        refuse(member, error.what());
    }
    if (attributes.kernels.empty()) return node;
    try {
        node->bundle = Bundle::read(attributes.kernels);
    } catch (std::exception const& error) {
        refuse(member, error.what() + std::string(kCure));
    }
    if (node->bundle->opType != member.opType) {
        refuse(member, "its attached kernels are for " + node->bundle->opType.substr(0, 80) + kCure);
    }
    Type const mask = node->bundle->maskType;
    bool const fits = member.masking == Masking::none ? mask == Type::none
        : member.masking == Masking::boolean          ? mask == Type::boolean
                                                      : mask != Type::none && mask != Type::boolean;
    if (!fits) refuse(member, std::string("its attached kernels disagree about the mask") + kCure);
    return node;
}

int32_t Node::rankOf(Tensor tensor) const {
    if (tensor == Tensor::output) return views.output.rank();
    return viewed(tensor) ? views[tensor].rank() : alibi::rankOf(tensor);
}

Call Node::call(Described const* inputs, size_t count, Described const& output) const {
    if (count != member->inputs.size()) {
        refuse(*member, std::to_string(count) + " inputs instead of " + std::to_string(member->inputs.size()));
    }
    Call made;
    made.scale = scale;
    made.emptyMean = emptyMean;
    made.windowLeft = windowLeft;
    made.windowRight = windowRight;
    made.rowsFirst = rowsFirst;
    try {
        for (size_t i = 0; i < count; ++i) {
            Tensor const tensor = member->inputs[i];
            made[tensor] = viewed(tensor) ? describe(tensor, inputs[i], views[tensor]) : describe(tensor, inputs[i]);
        }
        made[Tensor::output] = describeOutput(output, views.output, made.heads(), made.valueWidth());
        check(made);
        Operand const& mask = made[Tensor::mask];
        if (mask.present && (mask.type == Type::boolean) != (member->masking == Masking::boolean)) {
            throw std::runtime_error("mask is of type " + std::string(nameOf(mask.type)));
        }
    } catch (std::runtime_error const& error) {
        refuse(*member, error.what());
    }
    return made;
}

Described Node::output(Described const* inputs, size_t count) const {
    if (count != member->inputs.size()) {
        refuse(*member, std::to_string(count) + " inputs instead of " + std::to_string(member->inputs.size()));
    }
    Described found;
    found.type = inputs[0].type;
    found.rank = views.output.rank();
    try {
        for (size_t i = 0; i < count; ++i) {
            expectRank(member->inputs[i], inputs[i].rank, rankOf(member->inputs[i]));
        }
        std::array<int64_t, 4> result = describe(Tensor::query, inputs[0], views.query).shape;
        result[3] = describe(Tensor::value, inputs[2], views.value).shape[3];
        for (size_t place = 0; place < 4; ++place) {
            found.extents[place] = result[static_cast<size_t>(views.output.perm[place])];
        }
        if (views.output.reshapes()) found.extents[2] = product(found.extents[2], found.extents[3]);
    } catch (std::runtime_error const& error) {
        refuse(*member, error.what());
    }
    return found;
}

void requireKernels(Node const& node) {
    if (!node.bundle) refuse(*node.member, std::string("no kernels are attached to this node") + kCure);
}

}  // namespace alibi
