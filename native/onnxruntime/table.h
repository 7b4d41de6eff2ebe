// Calls into onnxruntime: by place, with failures as exceptions.
#pragma once

#include <stdexcept>
#include <string>

#include "onnxruntime/abi.h"

namespace alibi::ort {

class Table {
public:
    explicit Table(Api const* api) : api_(api) {}

    // Throws std::runtime_error with onnxruntime's message.
    template <typename... Arguments>
    void call(Place place, Arguments... arguments) const {
        Status* const status = entry<Status*(Arguments...)>(place)(arguments...);
        if (status == nullptr) return;
        std::string const message = entry<char const*(Status const*)>(kGetErrorMessage)(status);
        entry<void(Status*)>(kReleaseStatus)(status);
        throw std::runtime_error(message);
    }

    // Whether it worked; what did not is nobody's concern.
    template <typename... Arguments>
    bool tried(Place place, Arguments... arguments) const {
        Status* const status = entry<Status*(Arguments...)>(place)(arguments...);
        if (status != nullptr) entry<void(Status*)>(kReleaseStatus)(status);
        return status == nullptr;
    }

    template <typename Thing>
    void release(Place place, Thing* thing) const {
        if (thing != nullptr) entry<void(Thing*)>(place)(thing);
    }

    Status* failure(Code code, std::string const& message) const {
        return entry<Status*(int32_t, char const*)>(kCreateStatus)(code, message.c_str());
    }

    // `body`, with an exception as a status.
    template <typename Body>
    Status* guarded(Code code, Body const& body) const noexcept {
        try {
            body();
            return nullptr;
        } catch (std::exception const& error) {
            return failure(code, error.what());
        } catch (...) {
            return failure(code, "unknown error");
        }
    }

private:
    template <typename Signature>
    Signature* entry(Place place) const {
        return reinterpret_cast<Signature*>(api_->entries[place]);
    }

    Api const* api_;
};

}  // namespace alibi::ort
