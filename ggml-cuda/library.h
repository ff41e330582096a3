// Products of float matrices by cuBLAS.
#pragma once

#include "context.h"

namespace ds::cuda {

void *open_library_of_products(stream s);       // throws status::no_device or status::memory
void close_library_of_products(void *library);  // null is fine
int multiply_by_library(void *library, const library_product &, void *scratch);  // returns a cudaError_t

}  // namespace ds::cuda
