// A runtime's threads where there is but one.
#pragma once

#include "cpu/attention.h"

namespace alibi {

class Alone final : public cpu::Threads {
public:
    void run(int64_t count, void (*task)(void*, size_t), void* context) override {
        for (int64_t i = 0; i < count; ++i) task(context, static_cast<size_t>(i));
    }
};

}  // namespace alibi
