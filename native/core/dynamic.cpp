#include "core/dynamic.h"

#include <dlfcn.h>

// These moved from libdl to libc in 2.34 and got a new version there; the old one still answers, everywhere.
#if defined(__x86_64__)
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror,dlerror@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver dlopen,dlopen@GLIBC_2.17");
__asm__(".symver dlsym,dlsym@GLIBC_2.17");
__asm__(".symver dlerror,dlerror@GLIBC_2.17");
#endif

namespace alibi {

void* openLibrary(char const* name, std::string* why) {
    void* const found = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (found == nullptr && why != nullptr) {
        char const* const said = dlerror();
        *why = said == nullptr ? "" : said;
    }
    return found;
}

void* symbolOf(void* library, char const* name) { return dlsym(library, name); }

}  // namespace alibi
