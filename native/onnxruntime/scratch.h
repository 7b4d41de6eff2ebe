// Memory on the GPU for as long as a call is enqueued.
#pragma once

#include "onnxruntime/table.h"

namespace alibi::ort {

// Memory of the provider's arena, which it hands out again in the order of the stream.
class Scratch {
public:
    Scratch(Table const& table, KernelContext const* context, Allocator* allocator, int64_t bytes) : allocator_(allocator) {
        if (bytes > 0) {
            table.call(kGetScratchBuffer, context, allocator->info(allocator), static_cast<size_t>(bytes), &data_);
        }
    }
    Scratch(Scratch const&) = delete;
    ~Scratch() {
        if (data_ != nullptr) allocator_->free(allocator_, data_);
    }
    void* data() const { return data_; }

private:
    Allocator* allocator_;
    void* data_ = nullptr;
};

}  // namespace alibi::ort
