/* Every structure of ABI 1 as 64-bit processors have it: sizes, the place of every field, and that no byte lies between two of them or after the last. A later
 * version's structures may be longer; what version 1 has stays where it is. OF_ABI_1: of the header that is kept, not of today's. */
#ifdef OF_ABI_1
#include "deepseek-1.h"
#else
#include "../../deepseek.h"
#endif

#define IS(x) _Static_assert(x, #x)
#define AT(type, field, offset, size)                                                                        \
    IS(offsetof(type, field) == (offset) && sizeof(((type *)0)->field) == (size))
#define SIZE(type, size) IS(sizeof(type) >= (size) && sizeof(type) % 8 == 0)
#define FIXED(type, size) IS(sizeof(type) == (size))

IS(sizeof(void *) == 8 && sizeof(size_t) == 8);
IS(DS_ABI_VERSION == 1);
#include "layout.inc"
