// Libraries that are looked for at run time and never linked against.
#pragma once

#include <string>

namespace alibi {

// A library by its name or path, with symbols of its own; null, and the loader's words in `why`, if it cannot be opened.
// It is never closed.
void* openLibrary(char const* name, std::string* why = nullptr);

// What a library exports under a name; null if it does not.
void* symbolOf(void* library, char const* name);

// The same for functions: fills `entry` and says whether there is one.
template <typename Function>
bool findFunction(void* library, char const* name, Function*& entry) {
    entry = reinterpret_cast<Function*>(symbolOf(library, name));
    return entry != nullptr;
}

}  // namespace alibi
