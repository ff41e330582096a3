// A case of op_cases.h in the memory of any backend, and the allowed differences from the reference's result.
#pragma once

#include "../tensor/op_cases.h"

#include "../../tensor/backend.h"

namespace ds::test {

class device_case {
public:
    device_case(const op_case &c, std::shared_ptr<backend> b);
    const node &only() { return g_.nodes()[0]; }
    const char *variant() { return b_->fn->variant(b_.get(), only()); }  // null: it does not run
    // Uploads the sources again, and fills result and scratch with garbage before.
    std::vector<char> run(uint64_t identity = 0);
    // Runs again with memory as the last run left it.
    std::vector<char> run_again(uint64_t identity);

private:
    tensor *source(const array &a);
    void *fresh(size_t bytes, const void *from);
    void prepare();
    std::shared_ptr<backend> b_;
    graph g_{16};
    std::vector<backend_memory> memory_;
    std::vector<std::pair<void *, std::vector<char>>> initial_;
    backend_memory out_, work_;
    size_t out_bytes_ = 0;
};

// all_cases(), and more for this backend's variants: I8 products of more than 64 aligned rows, and float
// products of more rows than are computed without a library.
std::vector<op_case> cuda_cases();

std::vector<char> reference_result(const op_case &c);  // by the reference forward on the host
format result_format(const op_case &c);

// Whether numerics.h defines the result's bits on a device too: not with packed weights, float pages, or a
// library's products.
bool bits_defined(const op_case &c, bool library);
// Describes the first wrong element of `got`; empty: none. Results without defined bits are compared with
// float64, within `slack` times the reference's tolerance.
std::string compare(const op_case &c, const std::vector<char> &wanted, const std::vector<char> &got,
                    bool bits, double slack);

}  // namespace ds::test
