// Which sanitizer the tests are built with. GCC reports it by macros, clang by features.
#pragma once

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DS_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer)
#define DS_THREAD_SANITIZER
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(DS_ADDRESS_SANITIZER)
#define DS_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__) && !defined(DS_THREAD_SANITIZER)
#define DS_THREAD_SANITIZER
#endif

namespace ds::test {

// Sanitized code runs many times slower. Cases that compare bits then use one model of each family.
#if defined(DS_THREAD_SANITIZER) || defined(DS_ADDRESS_SANITIZER)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

}  // namespace ds::test
