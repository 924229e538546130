// Nothing outside buffers is read or written: they lie between pages that may not be touched. Walls
// do not tell what kernels read and do not use, nor do sanitizers of instructions on tiles.
#include <sys/mman.h>
#include <unistd.h>

#include "byte_layer.h"
#include "check.h"
#include "kernels/bf16_bits.h"

namespace {

// Bytes that end where a page begins that may not be touched, or begin where one ends.
class Fenced {
 public:
  Fenced(size_t bytes, bool at_end) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inside = (bytes + page - 1) / page * page;
    size_ = inside + 2 * page;
    void* const mapped = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    begin_ = static_cast<uint8_t*>(mapped);
    if (inside > 0 && mprotect(begin_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
    data_ = begin_ + page + (at_end ? inside - bytes : 0);
  }
  ~Fenced() { munmap(begin_, size_); }
  Fenced(const Fenced&) = delete;
  Fenced& operator=(const Fenced&) = delete;
  uint8_t* data() { return data_; }

 private:
  uint8_t* begin_;
  uint8_t* data_;
  size_t size_;
};

void Run(const lcnn::NarrowConv& conv, const ByteCase& c, int64_t element_bytes) {
  const lcnn::NarrowConvShape& shape = conv.shape();
  const int64_t in = c.batch * c.in_height * c.in_width * shape.channels * element_bytes;
  const int64_t out = c.batch * lcnn::OutputExtent(shape.height, c.in_height, "height") *
                      lcnn::OutputExtent(shape.width, c.in_width, "width") * shape.out_channels *
                      (shape.to_narrow ? element_bytes : 4);
  for (const bool at_end : {false, true}) {
    Fenced x(static_cast<size_t>(in), at_end), y(static_cast<size_t>(out), at_end);
    Fenced residual(static_cast<size_t>(out), at_end);
    Fenced scratch(conv.ScratchBytes(c.batch, c.in_height, c.in_width), at_end);
    for (const bool adds : {false, shape.to_narrow}) {
      const void* const added = adds ? residual.data() : nullptr;
      conv.Run({c.batch, c.in_height, c.in_width, x.data(), added}, y.data(), scratch.data(), {});
      CHECK(true);
    }
  }
}

void RunCase(const ByteCase& c, bool to_narrow, lcnn::Isa isa) {
  std::mt19937 random(1);
  const ByteLayer layer(c, to_narrow, &random);
  Run(lcnn::NarrowConv(layer.shape, layer.constants, isa), c, 1);
  const auto halves = [](const std::vector<int8_t>& bytes) {
    std::vector<uint16_t> values;
    for (const int8_t b : bytes) values.push_back(ToBfloat16(static_cast<float>(b)));
    return values;
  };
  const std::vector<uint16_t> dictionary = halves(layer.dictionary),
                              weights = halves(layer.weights);
  const lcnn::Bfloat16ConvConstants constants = {dictionary.data(), weights.data(),
                                                 layer.bias.data()};
  Run(lcnn::NarrowConv(layer.shape, constants, isa), c, 2);
}

}  // namespace

int main() {
  for (const lcnn::Isa isa : IsasToTest()) {
    for (const ByteCase& c : NarrowCases()) {
      for (const bool to_narrow : {false, true}) RunCase(c, to_narrow, isa);
    }
  }
  return TestResult();
}
