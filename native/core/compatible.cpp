// Keeps the libraries loadable on C libraries older than the one that they are linked with.
//
// Headers of libstdc++ ask this, which only C libraries from 2.32 on have; "perhaps not" is always a right answer.
extern "C" {
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}
